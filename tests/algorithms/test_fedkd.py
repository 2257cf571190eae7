"""Known answers of FedKD: who gets which changes, and its losses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from toy import distance, equal, kl, make_cohort
from toy_rounds import run

from pfedhr.algorithm import SettingError, Setup
from pfedhr.algorithms.averaging import differences
from pfedhr.algorithms.compression import compress
from pfedhr.algorithms.fedkd import FedKD, Learnt, Mentee, Mentor, News, adaptive_loss
from pfedhr.algorithms.private import common_weights, restore, weights_of
from pfedhr.federate import Schedule
from pfedhr.in_process import Cohort, InProcess, Workers
from pfedhr.learning import batches
from pfedhr.models import ModelSpec
from pfedhr.parcel import unpack
from pfedhr.seeding import generator

MLP = ModelSpec("mlp", (1, 8, 8), 4)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def step(cohort: Cohort, method: FedKD, round: int, server: Mentee, states: dict[str, Mentor], *clients: str) -> Mentee:
    """One round of `clients`, whose new states go into `states`."""
    replies = {}
    for client in clients:
        view = cohort.client_view(client, round)
        states[client], replies[client], _ = method.client_step(states[client], method.message(server, client), view)
    return method.server_step(server, replies, InProcess(method, Workers(cohort)).server_view(round))[0]


def beginning(cohort: Cohort, method: FedKD) -> tuple[Mentee, dict[str, Mentor]]:
    server = method.init_server(InProcess(method, Workers(cohort)).server_view(0))
    return server, {client: method.init_client(cohort.client_view(client, 0)) for client in cohort.networks}


def test_with_all_the_energy_the_mentee_is_the_mean_by_examples() -> None:
    cohort, method = make_cohort("mlp"), FedKD("mlp", 1.0, 1.0)
    view = InProcess(method, Workers(cohort)).server_view(1)
    server = method.init_server(view)
    sent = [common_weights(MLP, seed) for seed in (5, 6)]
    changes = [compress(differences(server.weights, one), 1.0, ()) for one in sent]
    replies = {"b": Learnt(changes[0], 1), "a": Learnt(changes[1], 3)}
    after, metrics = method.server_step(server, replies, view)
    assert metrics == {"energy": 1.0}
    assert all(
        torch.allclose(value, 0.25 * sent[0][name] + 0.75 * sent[1][name], atol=1e-5) for name, value in after.weights.items()
    )


def test_the_loss_has_its_known_values_and_its_divisor_is_a_constant() -> None:
    even, labels = torch.zeros(3, 4), torch.tensor([0, 1, 2])
    # Equal predictions: no divergence; each cross entropy is log 4.
    assert adaptive_loss(even, even, labels, torch.tensor(2.0)).item() == pytest.approx(2 * math.log(4) + 1 / math.log(4))
    sure = 1000.0 * torch.eye(4)[:3]
    assert adaptive_loss(sure, sure, labels, torch.tensor(0.5)).item() == pytest.approx(500)  # 0.5 / 0.001, not infinity


def test_one_backward_pass_gives_each_network_the_gradient_of_its_own_loss() -> None:
    labels, hidden = torch.tensor([0, 1, 1]), (noise(3, 5), noise(3, 2, seed=1))
    own, common = (noise(3, 4, seed=seed).requires_grad_() for seed in (2, 3))
    features, mapped = hidden[0].clone().requires_grad_(), hidden[1].clone().requires_grad_()
    projection = noise(5, 2, seed=4).requires_grad_()
    leaves = [own, common, features, mapped, projection]
    distance = functional.mse_loss(mapped @ projection.T, features)
    found = torch.autograd.grad(adaptive_loss(own, common, labels, distance), leaves)

    sum_of_both = (functional.cross_entropy(own, labels) + functional.cross_entropy(common, labels)).item()
    mentor = (
        functional.cross_entropy(own, labels)
        + (kl(common, own) + functional.mse_loss(features, (mapped @ projection.T).detach())) / sum_of_both
    )
    mentee = (
        functional.cross_entropy(common, labels)
        + (kl(own, common) + functional.mse_loss(mapped @ projection.T, features.detach())) / sum_of_both
    )
    for loss, places in ((mentor, (0, 2)), (mentee, (1, 3, 4))):
        expected = torch.autograd.grad(loss, [leaves[place] for place in places])
        for place, gradient in zip(places, expected, strict=True):
            assert torch.allclose(found[place], gradient, atol=1e-6)


def features_and_logits(perceptron: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    *below, head = perceptron.children()
    features = nn.Sequential(*below)(inputs)
    return features, head(features)


@pytest.mark.parametrize(("round", "energy"), [(1, 0.5), (3, 0.9), (5, 0.9)])  # from 0.3 by 0.2 a round, up to the third
def test_a_client_steps_on_the_equations_of_the_method_and_keeps_the_energy_of_the_round(round: int, energy: float) -> None:
    """One training of all three beside the obvious one: each network's loss by itself, the other's part in it a constant."""
    method = FedKD("mlp", 0.3, 0.9, 3)
    view = make_cohort("mlp-wide").client_view("client00", round)
    start, given = method.init_client(view), common_weights(MLP, 5)
    after, reply, _ = method.client_step(start, News(given, 1, ()), view)

    examples = view.train.ready(view.device)
    mentor, mentee = restore(view.network, start.weights), restore(MLP, given)
    projection = start.projection.clone().requires_grad_()
    weights = [*mentor.parameters()], [*mentee.parameters(), projection]
    optimisers = [torch.optim.Adam(one, lr=0.002, weight_decay=1e-4) for one in weights]
    for batch in batches(24, 8, generator(view.seed, round, "client00", "batches"), view.device):
        labels = examples.labels[batch]
        (own_features, own), (features, common) = (features_and_logits(one, examples.inputs[batch]) for one in (mentor, mentee))
        wrong = [functional.cross_entropy(one, labels) for one in (own, common)]
        divisor = wrong[0].item() + wrong[1].item()
        mapped = features @ projection.T
        losses = (
            wrong[0] + (kl(common, own) + (own_features - mapped.detach()).square().mean()) / divisor,
            wrong[1] + (kl(own, common) + (own_features.detach() - mapped).square().mean()) / divisor,
        )
        gradients = [torch.autograd.grad(loss, one, retain_graph=True) for loss, one in zip(losses, weights, strict=True)]
        for optimiser, one, slopes in zip(optimisers, weights, gradients, strict=True):
            for value, slope in zip(one, slopes, strict=True):
                value.grad = slope
            optimiser.step()
    learnt = weights_of(mentee)
    assert distance(after.weights, weights_of(mentor)) < 0.01 * distance(weights_of(mentor), start.weights)
    assert torch.norm(after.projection - projection) < 0.01 * torch.norm(projection - start.projection)
    change = reply.change
    whole = {name: given[name] + value for name, value in change.whole.items()}
    assert distance(whole, {name: learnt[name] for name in whole}) < 0.01 * distance(learnt, given)
    assert len(change.left) == 3
    for name, left in change.left.items():
        added = (learnt[name] - given[name]).double()
        energies = torch.linalg.eigvalsh(added @ added.T).flip(0)  # the squares of the singular values
        shares, rank = [0.0, *(energies.cumsum(0) / energies.sum()).tolist()], left.shape[1]
        # Rounding, of which Adam makes steps, may move a share a little.
        assert shares[rank - 1] - 0.01 < energy < shares[rank] + 0.01, name
        kept = left.double() @ change.right[name].double()
        assert (kept.square().sum() / energies.sum()).item() == pytest.approx(shares[rank], abs=0.01), name
        assert ((kept - added).square().sum() / energies.sum()).item() == pytest.approx(1 - shares[rank], abs=0.01), name


def test_the_mentee_stands_beside_the_mentor_once_others_had_a_part_in_it() -> None:
    cohort, method = make_cohort("cnn1"), FedKD("mlp")
    server, states = beginning(cohort, method)
    view = cohort.client_view("client00", 1)
    assert method.teacher_model(states["client00"], view) is None
    server = step(cohort, method, 1, server, states, "client00")
    assert method.teacher_model(states["client00"], view) is None
    step(cohort, method, 2, server, states, "client00")
    teacher = method.teacher_model(states["client00"], view)
    assert teacher is not None
    assert equal(weights_of(teacher), server.weights)
    assert equal(weights_of(method.personal_model(states["client00"], view)), states["client00"].weights)
    assert not states["client00"].projection.equal(method.init_client(view).projection)
    assert method.public_use(labelled=True) == "none"


def test_networks_of_any_two_widths_learn_together() -> None:
    _, states = run(FedKD("cnn1"), make_cohort("mlp", "mlp-wide"), Schedule(1, 4))
    shapes = {client: tuple(unpack(Mentor, state or b"").projection.shape) for client, state in states.items()}
    assert set(shapes.values()) == {(64, 50), (256, 50)}


@pytest.mark.parametrize(
    ("own", "common", "place"),
    [("mlp", "toy:headless", "algorithm.common_network"), ("toy:headless", "mlp", "clients.models")],
)
def test_networks_without_features_are_refused(own: str, common: str, place: str) -> None:
    cohort = make_cohort(own)
    with pytest.raises(SettingError, match=f"{place}: fedkd needs the features of .*headless.*nn.Linear"):
        FedKD(common).check(Setup(cohort.networks, cohort.federation.public, cohort.training, 4))


@pytest.mark.parametrize("setting", [{"energy_start": 0.0}, {"energy_end": 1.5}, {"energy_rounds": 0}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    cohort = make_cohort("mlp")
    (name,) = setting
    with pytest.raises(SettingError, match=f"algorithm.{name} = .* of fedkd: choose"):
        FedKD(**setting).check(Setup(cohort.networks, cohort.federation.public, cohort.training, 4))
