"""Known answers of the methods that average whole networks, and of those that share a head."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
import torch
from torch import nn
from toy import equal, make_cohort
from toy_rounds import run

from pfedhr.algorithm import SettingError, Setup
from pfedhr.algorithms import ALGORITHMS
from pfedhr.algorithms.averaging import mixed, weighted_mean
from pfedhr.algorithms.fedavg import FedAvg
from pfedhr.algorithms.fedprox import FedProx, proximal
from pfedhr.algorithms.held import Held, Shared
from pfedhr.algorithms.homogeneous import Trained
from pfedhr.algorithms.lg_fedavg import LGFedAvg
from pfedhr.algorithms.per_fedavg import PerFedAvg, meta_gradient
from pfedhr.algorithms.pfedme import PFedMe
from pfedhr.algorithms.private import common_weights, restore
from pfedhr.algorithms.shared_head import take_head
from pfedhr.federate import Schedule
from pfedhr.in_process import InProcess, Workers
from pfedhr.learning import Training, training
from pfedhr.models import build
from pfedhr.parcel import unpack

ONE_STRUCTURE = ["fedavg", "fedprox", "per-fedavg", "pfedme"]


def test_the_mean_counts_examples() -> None:
    mean = weighted_mean([{"w": torch.tensor([0.0])}, {"w": torch.tensor([4.0])}], [1, 3])
    assert mean["w"].item() == 3.0
    assert mixed({"w": torch.tensor([1.0])}, {"w": torch.tensor([3.0])}, 0.25)["w"].item() == 1.5


def test_plain_descent_on_all_of_ones_examples_at_once_is_a_step_on_everyones(monkeypatch: pytest.MonkeyPatch) -> None:
    """FedAvg's known answer, which Adam does not give: its steps do not add up."""
    monkeypatch.setattr(training, "adam", lambda model, _: torch.optim.SGD(model.parameters(), 0.1))
    cohort = make_cohort("mlp", clients=2)
    few, many = (data.train for data in cohort.federation.clients.values())
    parts = {"client00": few.take(torch.arange(5)), "client01": many}
    start, replies = common_weights(cohort.networks["client00"], 0), {}
    for client, part in parts.items():
        view = replace(cohort.client_view(client, 1), train=part, training=Training(1, 24, 0.1))
        _, replies[client], _ = FedAvg().client_step(FedAvg().init_client(view), Shared(start), view)
    server, _ = FedAvg().server_step(Shared(start), replies, InProcess(FedAvg(), Workers(cohort)).server_view(1))
    model = restore(cohort.networks["client00"], start)
    inputs, labels = (
        torch.cat([getattr(part.ready(cohort.device), name) for part in parts.values()]) for name in ("inputs", "labels")
    )
    nn.functional.cross_entropy(model(inputs), labels).backward()
    assert server.weights is not None
    for name, value in model.named_parameters():
        assert value.grad is not None
        assert torch.allclose(server.weights[name], value - 0.1 * value.grad, atol=1e-6)
        assert not torch.allclose(server.weights[name], value, atol=1e-4)


def test_fedavg_of_identical_clients_changes_nothing() -> None:
    cohort = make_cohort("mlp")
    weights = common_weights(cohort.networks["client00"], 0)
    view = InProcess(FedAvg(), Workers(cohort)).server_view(1)
    server, _ = FedAvg().server_step(Shared(None), {name: Trained(weights, 5) for name in "abcd"}, view)
    assert server.weights is not None
    assert equal(server.weights, weights)  # four equal parts of it, which floating point adds up exactly


def test_clients_of_fedavg_begin_with_one_model() -> None:
    cohort = make_cohort("mlp")
    states = [FedAvg().init_client(cohort.client_view(client, 0)) for client in cohort.networks]
    assert all(equal(state.weights, states[0].weights) for state in states)


def test_fedprox_without_its_term_is_fedavg_bit_for_bit() -> None:
    cohort = make_cohort("cnn1")
    _, plain = run(FedAvg(), cohort, Schedule(2, 3))
    _, near = run(FedProx(proximal_weight=0), cohort, Schedule(2, 3))
    assert plain == near


def test_a_heavy_proximal_term_holds_a_client_where_it_began() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 1.0]))
    term = proximal([weight], [torch.tensor([1.0, 1.0])], 10.0)
    assert term.item() == 20.0  # 10 / 2 * (2 ** 2 + 0)
    # gradient mu (w - start): one step with rate 1 / mu leads back
    (gradient,) = torch.autograd.grad(term, [weight])
    assert torch.equal(weight - gradient / 10, torch.tensor([1.0, 1.0]))
    cohort = make_cohort("mlp", epochs=4)
    moved = {}
    for factor in (0.01, 100.0):
        _, states = run(FedProx(proximal_weight=factor), cohort, Schedule(1, 4))
        held = unpack(Held, states["client00"] or b"")
        start = common_weights(cohort.networks["client00"], 0)
        moved[factor] = sum((held.weights[name] - start[name]).square().sum().item() for name in start)
    assert moved[100.0] < moved[0.01] / 4


def test_a_meta_gradient_has_its_known_values() -> None:
    # f = (w - 1) ** 2, alpha = 0.1, w = 0: the inner step leads to 0.2, where the gradient is -1.6; times 1 - 2 alpha: -1.28.
    weight = nn.Parameter(torch.tensor([0.0], dtype=torch.float64))

    def loss() -> torch.Tensor:
        return (weight - 1).square().sum()

    for curvature, gradient, after in ((None, -1.6, 0.16), (loss, -1.28, 0.128)):
        value, (found,) = meta_gradient([weight], loss, loss, curvature, 0.1, 0.001)
        assert value.item() == pytest.approx(0.64)
        assert found.item() == pytest.approx(gradient, abs=1e-9)
        assert (weight - 0.1 * found).item() == pytest.approx(after, abs=1e-9)
        assert weight.item() == 0.0
    _, (plain,) = meta_gradient([weight], loss, loss, None, 0.0, 0.001)
    assert plain.item() == -2.0  # alpha = 0: the plain gradient


def test_both_variants_of_per_fedavg_run_and_differ() -> None:
    cohort = make_cohort("mlp")
    first, _ = run(PerFedAvg(), cohort, Schedule(2, 4))
    free, _ = run(PerFedAvg(variant="hessian-free"), cohort, Schedule(2, 4))
    assert first[-1].progress.server != free[-1].progress.server


def test_the_difference_of_gradients_drops_the_same_units_on_both_sides() -> None:
    layer, inputs = nn.Linear(40, 1, bias=False), torch.randn(8, 40)
    dropout = nn.Dropout(0.5)

    def loss() -> torch.Tensor:
        return dropout(layer(dropout(inputs))).square().mean()

    def gradient(difference: float) -> torch.Tensor:
        torch.manual_seed(0)
        return meta_gradient(list(layer.parameters()), loss, loss, loss, 0.01, difference)[1][0]

    # The loss is quadratic, so that the difference is exact at any step; two draws' difference would grow as the step shrinks.
    assert torch.allclose(gradient(0.01), gradient(1.0), rtol=1e-3, atol=1e-5)


def test_pfedme_solves_the_envelope() -> None:
    # f = (theta - 3) ** 2 / 2, w = 0, lambda 15: the minimum is 3 / 16 = 0.1875; five steps of 0.05 come to 0.18744.
    theta = nn.Parameter(torch.tensor([0.0], dtype=torch.float64))
    shared = [torch.tensor([0.0], dtype=torch.float64)]

    def loss() -> torch.Tensor:
        return (theta - 3).square().sum() / 2

    method = PFedMe(personal_steps=5, personal_learning_rate=0.05, shared_learning_rate=1 / 15)
    method.envelope_step([theta], shared, loss)
    step = 0.05 * 16
    assert theta.item() == pytest.approx(0.1875 * (1 - (1 - step) ** 5))
    assert theta.item() == pytest.approx(0.18744, abs=1e-5)
    assert torch.allclose(shared[0], theta)  # eta lambda = 1: w becomes theta


def test_pfedme_without_an_envelope_never_moves_the_shared_model() -> None:
    cohort = make_cohort("mlp")
    results, _ = run(PFedMe(envelope=0.0), cohort, Schedule(2, 4))
    server = unpack(Shared, results[-1].progress.server)
    assert server.weights is not None
    assert equal(server.weights, common_weights(cohort.networks["client00"], 0))


def test_pfedme_keeps_its_personal_model_apart() -> None:
    _, states = run(PFedMe(), make_cohort("mlp"), Schedule(2, 4))
    held = unpack(Held, states["client00"] or b"")
    assert held.shared is not None
    assert not equal(held.weights, held.shared)


def test_pfedme_carries_weights_beyond_their_mean_and_running_statistics_no_further() -> None:
    cohort = make_cohort("cnn4-eighth", clients=2)
    view = InProcess(PFedMe(), Workers(cohort)).server_view(2)
    learnt = {name for name, _ in build(cohort.networks["client00"], 0).named_parameters()}
    old = {name: torch.full_like(value, 8) for name, value in common_weights(cohort.networks["client00"], 0).items()}
    own = cohort.client_view("client00", 2)
    _, reply, _ = PFedMe().client_step(PFedMe().init_client(own), Shared(None), own)
    assert set(reply.buffers) == old.keys() - learnt
    sent = {
        client: replace(reply, weights={name: torch.full_like(value, at) for name, value in old.items()})
        for client, at in (("client00", 1), ("client01", 3))
    }
    for mixing, weight, statistic in ((0.5, 5, 5), (1.0, 2, 2), (2.0, -4, 2)):
        server, _ = PFedMe(mixing=mixing).server_step(Shared(old), sent, view)
        assert server.weights is not None
        assert list(server.weights) == list(old)
        for name, value in server.weights.items():
            expected = weight if name in learnt else statistic if value.is_floating_point() else 3
            assert torch.equal(value, torch.full_like(value, expected)), (mixing, name)


def test_lg_fedavg_shares_the_head_alone() -> None:
    cohort = make_cohort("cnn1", "mlp", features=16)
    method = LGFedAvg()
    engine = InProcess(method, Workers(cohort))
    view = cohort.client_view("client00", 1)
    state = method.init_client(view)
    _, reply, _ = method.client_step(state, Shared(None), view)
    assert {name: tuple(value.shape) for name, value in reply.weights.items()} == {"weight": (4, 16), "bias": (4,)}
    server, _ = method.server_step(Shared(None), {"a": reply, "b": reply}, engine.server_view(1))
    assert server.weights is not None
    assert equal(server.weights, reply.weights)  # identical heads: unchanged
    idle = dataclasses.replace(view, training=Training(0, 8, 0.002))
    held, _, _ = method.client_step(state, server, idle)
    assert equal(take_head(view.network, held.weights), reply.weights)
    rest = [name for name in state.weights if not name.startswith("fc2.2")]
    assert len(rest) == len(state.weights) - 2
    assert all(torch.equal(held.weights[name], state.weights[name]) for name in rest)


@pytest.mark.parametrize("name", ONE_STRUCTURE)
def test_several_structures_are_refused_in_words(name: str) -> None:
    cohort = make_cohort("cnn1", "mlp")
    setup = Setup(cohort.networks, cohort.federation.public, cohort.training, 4)
    with pytest.raises(SettingError, match=f"{name} averages whole networks.*cnn1, mlp.*clients.models"):
        ALGORITHMS[name]().check(setup)


def test_features_of_several_widths_are_refused_in_words() -> None:
    cohort = make_cohort("cnn1", "mlp")
    setup = Setup(cohort.networks, cohort.federation.public, cohort.training, 4)
    with pytest.raises(SettingError, match=r"lg-fedavg needs features of one width.*cnn1 50, mlp 64.*clients.features"):
        LGFedAvg().check(setup)


@pytest.mark.parametrize(
    "method",
    [
        FedProx(proximal_weight=-1),
        PerFedAvg(adaptation_steps=0),
        PFedMe(envelope=300.0),
        PFedMe(personal_learning_rate=0.0),
    ],
)
def test_settings_out_of_range_are_refused(method) -> None:
    cohort = make_cohort("mlp")
    with pytest.raises(SettingError, match=f"algorithm.*{method.name}"):
        method.check(Setup(cohort.networks, cohort.federation.public, cohort.training, 4))
