"""Known answers of FCCL."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from torch.nn import functional
from toy import distance, kl, make_cohort
from toy_rounds import run

from pfedhr.algorithm import SettingError, Setup
from pfedhr.algorithms.consensus import Consensus
from pfedhr.algorithms.fccl import FCCL, Rooted, correlation_loss, standardise
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.own import Own
from pfedhr.algorithms.private import common_weights, restore, weights_of
from pfedhr.federate import Schedule
from pfedhr.inference import predict
from pfedhr.learning import Training
from pfedhr.models import ModelError, build
from pfedhr.parcel import unpack
from pfedhr.seeding import generator

TETRAHEDRON = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])  # three columns, uncorrelated, of deviation 1


def test_the_correlation_loss_has_its_known_values() -> None:
    def close(value: float):
        return pytest.approx(value, abs=2e-5)  # what the number under the root costs

    assert correlation_loss(TETRAHEDRON, TETRAHEDRON, 0.0).item() == close(0.0)  # identical: the diagonal is at its aim
    assert correlation_loss(TETRAHEDRON, TETRAHEDRON, 0.0051).item() == close(6 * 0.0051)
    column = torch.tensor([[3.0], [1.0], [-2.0]])
    opposite, equal = torch.cat([column, -column], 1), torch.cat([column, column], 1)
    assert correlation_loss(opposite, opposite, 0.0051).item() == close(0.0)
    assert correlation_loss(equal, equal, 0.0051).item() == close(8 * 0.0051)  # two pairs of (1 + 1)^2
    signs = torch.tensor([[1.0]])
    for _ in range(4):  # Hadamard's matrices: the columns after the first are balanced and orthogonal
        signs = torch.cat([torch.cat([signs, signs], 1), torch.cat([signs, -signs], 1)])
    ten = signs[:, 1:11]
    assert correlation_loss(ten, ten, 0.0051).item() == close(90 * 0.0051)


def test_the_correlation_loss_is_the_sum_over_pairs_of_classes() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, target = (torch.randn(7, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    logits.requires_grad_()
    found, slow = correlation_loss(logits, target, 0.3), slow_correlation_loss(logits, target, 0.3)
    assert found.item() == pytest.approx(slow.item(), abs=1e-12)
    (slope,), (slow_slope,) = (torch.autograd.grad(loss, [logits]) for loss in (found, slow))
    assert torch.allclose(slope, slow_slope, atol=1e-12)


def slow_correlation_loss(logits: torch.Tensor, target: torch.Tensor, weight: float) -> torch.Tensor:
    total = torch.zeros((), dtype=logits.dtype)
    for u in range(logits.shape[1]):
        for v in range(logits.shape[1]):
            a, b = logits[:, u] - logits[:, u].mean(), target[:, v] - target[:, v].mean()
            correlation = (a * b).mean() / (a.square().mean() + 1e-5).sqrt() / (b.square().mean() + 1e-5).sqrt()
            total = total + ((1 - correlation) ** 2 if u == v else weight * (1 + correlation) ** 2)
    return total


def test_classes_that_do_not_vary_do_no_harm_and_only_the_client_learns() -> None:
    flat = torch.ones(4, 3, requires_grad=True)
    target = TETRAHEDRON.clone().requires_grad_()
    loss = correlation_loss(flat, target, 0.0051)
    assert loss.item() == pytest.approx(3 + 6 * 0.0051)  # all correlations are 0
    loss.backward()
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()
    assert target.grad is None
    assert torch.equal(standardise(torch.ones(1, 3)), torch.zeros(1, 3))


def test_the_first_round_is_the_private_training_that_is_remembered() -> None:
    cohort = make_cohort("cnn1", "mlp")
    _, alone = run(Local(), cohort, Schedule(1, 4))
    _, first = run(FCCL(), cohort, Schedule(1, 4))
    _, third = run(FCCL(), cohort, Schedule(3, 4))
    for client in cohort.networks:
        expected = unpack(Own, alone[client] or b"").weights
        once, thrice = (unpack(Rooted, states[client] or b"") for states in (first, third))
        assert once.first is not None
        assert thrice.first is not None
        for name, value in expected.items():
            assert torch.equal(once.weights[name], value)
            assert torch.equal(once.first[name], value)
            assert torch.equal(thrice.first[name], value)
        assert any(not torch.equal(thrice.weights[name], value) for name, value in expected.items())


def test_without_public_steps_and_memory_fccl_learns_as_if_alone() -> None:
    cohort = make_cohort("cnn1", labelled=False)
    _, alone = run(Local(), cohort, Schedule(3, 4))
    _, states = run(FCCL(consensus_epochs=0, memory_weight=0), cohort, Schedule(3, 4))
    for client, state in states.items():
        weights = unpack(Rooted, state or b"").weights
        assert all(torch.equal(weights[name], value) for name, value in unpack(Own, alone[client] or b"").weights.items())


def test_memory_is_of_the_round_before_and_of_the_first_training() -> None:
    view = make_cohort("mlp").client_view("client00", 2)
    kept, first, now = (weights_of(build(view.network, seed)) for seed in (1, 2, 3))
    inputs, batch = view.train.ready(view.device).inputs, torch.tensor([3, 0, 7])
    before, root, logits = (predict(restore(view.network, one), inputs)[batch] for one in (kept, first, now))
    logits.requires_grad_()
    slow = 0.5 * (kl(before, logits) + kl(root, logits))
    term = FCCL(memory_weight=0.5)._memory(view, [kept, first])
    assert term is not None
    found = term(logits, batch)
    assert found.item() == pytest.approx(slow.item(), rel=1e-4)
    (slope,), (slow_slope,) = (torch.autograd.grad(loss, [logits]) for loss in (found, slow))
    assert torch.allclose(slope, slow_slope, atol=1e-6)
    round = functools.partial(FCCL(consensus_epochs=0).client_step, message=Consensus(None, 0), view=view)
    losses = {name: round(Rooted(kept, one))[2]["loss"] for name, one in (("kept", kept), ("first", first))}
    assert losses["first"] > losses["kept"]  # at first the network is what it was before, so only the other differs from it


def test_a_client_collaborates_and_then_remembers_what_it_was_before_that() -> None:
    """Round 2 beside the obvious one: it remembers its network as it came into the round, and that of its first training."""
    method = FCCL(memory_weight=2.0, correlation_weight=0.3, consensus_epochs=20, consensus_batch_size=16)
    view = make_cohort("mlp").client_view("client00", 2)
    kept, first = ({name: 2 * value for name, value in common_weights(view.network, seed).items()} for seed in (1, 2))
    consensus = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    state, _, _ = method.client_step(Rooted(kept, first), Consensus(consensus, 1), view)

    model, public, examples = restore(view.network, kept), method.public_inputs(view, 1), view.train.ready(view.device)
    before, root = (predict(restore(view.network, one), examples.inputs) for one in (kept, first))
    adam = torch.optim.Adam(model.parameters(), lr=0.002, weight_decay=1e-4)
    for _ in range(20):
        step(adam, slow_correlation_loss(model(public), consensus, 0.3))
    between = weights_of(model)
    adam = torch.optim.Adam(model.parameters(), lr=0.002, weight_decay=1e-4)
    for batch in torch.randperm(24, generator=generator(view.seed, 2, "client00", "batches")).split(8):
        logits = model(examples.inputs[batch])
        remembered = kl(before[batch], logits) + kl(root[batch], logits)
        step(adam, functional.cross_entropy(logits, examples.labels[batch]) + 2.0 * remembered)
    assert state.first is first
    assert distance(state.weights, weights_of(model)) < 0.02 * distance(weights_of(model), between)


def step(optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def test_memory_holds_a_client_near_what_it_said_before() -> None:
    def moved(memory_weight: float) -> float:
        cohort, method = make_cohort("mlp", epochs=8), FCCL(memory_weight=memory_weight, consensus_epochs=0)
        view = cohort.client_view("client00", 1)
        idle = dataclasses.replace(view, training=Training(1, 8, 0.002))
        state, _, _ = method.client_step(method.init_client(view), Consensus(None, 0), idle)
        later, _, _ = method.client_step(state, Consensus(None, 0), dataclasses.replace(view, round=2))
        inputs = view.train.ready(view.device).inputs
        before, after = (predict(restore(view.network, one.weights), inputs).softmax(1) for one in (state, later))
        return float((before - after).abs().mean())

    assert moved(100.0) < moved(0.0) / 4


def test_collaboration_lowers_the_loss_against_a_fixed_mean() -> None:
    cohort = make_cohort("mlp")
    view = cohort.client_view("client00", 2)
    scores = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    weights = FCCL().init_client(view).weights
    losses = {}
    for epochs in (1, 30):
        idle = dataclasses.replace(view, training=Training(0, 8, 0.002))
        method = FCCL(consensus_epochs=epochs, memory_weight=0)
        _, _, metrics = method.client_step(Rooted(weights, weights), Consensus(scores, 1), idle)
        losses[epochs] = metrics["consensus_loss"]
    assert losses[30] < losses[1] / 2


def test_a_last_public_batch_of_one_that_a_network_cannot_learn_from_is_refused() -> None:
    cohort = make_cohort("toy:normed")
    method = FCCL(public_examples=9, consensus_batch_size=8)
    with pytest.raises(ModelError, match=r"algorithm.consensus_batch_size.*9 examples in batches of 8"):
        method.check(Setup(cohort.networks, cohort.federation.public, cohort.training, 4))


@pytest.mark.parametrize(
    "setting",
    [
        {"correlation_weight": -1},
        {"memory_weight": -0.5},
        {"public_examples": 1},
        {"consensus_epochs": -1},
        {"consensus_batch_size": 1},
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, int]) -> None:
    cohort = make_cohort("mlp")
    (name,) = setting
    with pytest.raises(SettingError, match=f"algorithm.{name} = .* of fccl"):
        FCCL(**setting).check(Setup(cohort.networks, cohort.federation.public, cohort.training, 4))


def test_one_public_input_is_refused() -> None:
    cohort = make_cohort("mlp")
    setup = Setup(cohort.networks, cohort.federation.public.take(torch.arange(1)), cohort.training, 4)
    with pytest.raises(SettingError, match=r"fccl needs at least 2 public inputs.*public.share"):
        FCCL().check(setup)
    assert FCCL().public_use(labelled=True) == "inputs at clients"
