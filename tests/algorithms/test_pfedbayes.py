"""Known answers of pFedBayes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_contract import run
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from toy import equal, make_cohort

from pfedhr.algorithm import SettingError, Setup
from pfedhr.algorithms.pfedbayes import (
    Believed,
    Distribution,
    Pair,
    PFedBayes,
    Prior,
    distributed,
    gaussian_divergence,
)
from pfedhr.algorithms.private import common_weights, restore, train_privately
from pfedhr.federate import Schedule
from pfedhr.in_process import InProcess, Workers
from pfedhr.learning import Training
from pfedhr.models import ModelSpec, build
from pfedhr.parcel import Tensors, pack, unpack
from pfedhr.seeding import generator


def normed(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A network of every kind that matters here: a norm, a matrix that learns, one that is frozen, and one used twice."""
    first, twice = nn.Linear(64, 6), nn.Linear(6, 6)
    frozen = nn.Linear(6, 6).requires_grad_(False)
    return nn.Sequential(nn.Flatten(), first, nn.BatchNorm1d(6), frozen, twice, nn.ReLU(), twice, nn.Linear(6, classes))


def tied(shape: tuple[int, ...], classes: int) -> nn.Module:
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), first, second, nn.Linear(64, classes))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0.0, 1.0), (0.0, 1.0), 0.0),
        ((1.0, 1.0), (0.0, 1.0), 0.5),
        ((0.0, 1.0), (0.0, 2.0), 0.318147),
        ((0.0, 2.0), (0.0, 1.0), 0.806853),
        ((0.0, 1e-30), (0.0, 1e-30), 0.0),  # whose squares are 0 in single precision
    ],
)
def test_the_divergence_of_two_gaussians_has_its_known_values(first, second, expected: float) -> None:
    arguments = [torch.full((3,), value) for value in (*first, *second)]
    assert gaussian_divergence(*arguments).item() == pytest.approx(3 * expected, abs=2e-6)
    found = torch.distributions.kl_divergence(torch.distributions.Normal(*first), torch.distributions.Normal(*second))
    if first[1] > 1e-20:
        assert found.item() == pytest.approx(expected, abs=1e-6)


def test_equal_distributions_pull_nowhere() -> None:
    values = [torch.tensor([0.3, -2.0]), torch.tensor([0.07, 1.3])] * 2
    leaves = [value.clone().requires_grad_() for value in values]
    for gradient in torch.autograd.grad(gaussian_divergence(*leaves), leaves):
        assert torch.equal(gradient, torch.zeros(2))


@pytest.mark.parametrize(("rho", "deviation"), [(-3.0, 0.0485874), (-2.5, 0.0788897)])
def test_deviations_have_their_known_values(rho: float, deviation: float) -> None:
    # With means of 0, what is drawn is the deviation times what the generator gives.
    cohort = make_cohort("mlp", clients=1)
    view = cohort.client_view("client00", 1)
    method = PFedBayes(initial_rho=rho)
    start = method.init_client(view).own
    zero = {name: torch.zeros_like(value) for name, value in start.means.items()}
    pair = Pair(view, Distribution(zero, start.rhos), start)
    inputs = torch.zeros(1, 1, 8, 8)
    rng = generator(0, "noise")
    noise = {name: torch.randn(start.rhos[name].shape, generator=rng) for name in pair.names}
    logits = pair.draw(inputs, generator(0, "noise"))
    drawn = {name: deviation * value for name, value in noise.items()}
    assert torch.allclose(logits, functional_call(restore(view.network, zero), drawn, (inputs,)), rtol=1e-5, atol=1e-7)
    assert logits.abs().max() > 1e-4


def test_without_deviations_and_divergence_clients_learn_as_if_alone() -> None:
    cohort = make_cohort("cnn1", epochs=2)  # with dropout
    method = PFedBayes(divergence_weight=0.0, initial_rho=-200.0)
    results, states = run(method, cohort, Schedule(2, 4))
    start = common_weights(cohort.networks["client00"], 0)
    for client, state in states.items():
        weights, losses = start, []
        for round in (1, 2):
            view = cohort.client_view(client, round)
            view = dataclasses.replace(view, training=dataclasses.replace(view.training, weight_decay=0.0))
            weights, metrics = train_privately(view, weights)
            losses.append(metrics["loss"])
        assert equal(unpack(Believed, state or b"").own.means, weights)
        assert results[-1].clients[client]["loss"] == losses[-1]
    server = unpack(Prior, results[-1].progress.server).shared
    assert server is not None
    assert equal(server.means, start)  # nothing moves it
    assert all(torch.equal(rho, torch.full_like(rho, -200.0)) for rho in server.rhos.values())


def test_layers_of_vectors_and_frozen_ones_are_not_distributed() -> None:
    names = ["1.weight", "1.bias", "4.weight", "4.bias", "7.weight", "7.bias"]
    assert distributed(build(ModelSpec(f"{__name__}:normed", (1, 8, 8), 4), 0)) == dict(zip(names, names, strict=True))
    names = distributed(build(ModelSpec("cnn4", (1, 8, 8), 4), 0))
    assert len(names) == 18  # six convolutions and three linear layers, a weight and a bias each; no batch norm
    assert not any(name in names for name in ("conv1.1.weight", "conv1.1.bias"))


def test_a_weight_that_two_layers_share_is_drawn_once() -> None:
    model = build(ModelSpec(f"{__name__}:tied", (1, 8, 8), 4), 0)
    assert distributed(model)["2.weight"] == "1.weight"
    cohort = make_cohort(f"{__name__}:tied", clients=1)
    view = cohort.client_view("client00", 1)
    start = PFedBayes(initial_rho=0.0).init_client(view).own
    zero = {name: torch.zeros_like(value) for name, value in start.means.items()}
    pair = Pair(view, Distribution(zero, start.rhos), start)
    assert len(pair.names) == 5
    rng = generator(0, "noise")
    drawn = {name: torch.randn(start.rhos[name].shape, generator=rng) * torch.tensor(2.0).log() for name in pair.names}
    inputs = torch.ones(2, 1, 8, 8)
    hidden = functional.linear(inputs.flatten(1), drawn["1.weight"], drawn["1.bias"])
    hidden = functional.linear(hidden, drawn["1.weight"], drawn["2.bias"])
    expected = functional.linear(hidden, drawn["3.weight"], drawn["3.bias"])
    assert torch.allclose(pair.draw(inputs, generator(0, "noise")), expected, rtol=1e-4, atol=1e-3)
    own, shared = pair.split()
    assert equal(own.means, zero)
    assert equal(shared.means, start.means)


def test_what_is_not_distributed_is_averaged_with_the_rest() -> None:
    cohort = make_cohort(f"{__name__}:normed", clients=2)
    method = PFedBayes()
    view = InProcess(method, Workers(cohort)).server_view(1)
    replies, states = {}, {}
    for client in cohort.networks:
        own = cohort.client_view(client, 1)
        states[client], replies[client], _ = method.client_step(method.init_client(own), Prior(None), own)
    server, _ = method.server_step(Prior(None), replies, view)
    assert server.shared is not None
    start = common_weights(cohort.networks["client00"], 0)
    first, second = (replies[client].means for client in sorted(replies))
    for name in ("2.weight", "2.running_mean"):
        assert not torch.equal(first[name], start[name])
        assert torch.allclose(server.shared.means[name], (first[name] + second[name]) / 2)
        assert torch.equal(states["client00"].own.means[name], first[name])
    # A used-twice layer bears two names: the copy of the shared one, not the client's own, goes up under both.
    for reply, state in ((replies[client], states[client]) for client in replies):
        assert torch.equal(reply.means["4.weight"], reply.means["6.weight"])
        assert not torch.equal(reply.means["4.weight"], state.own.means["4.weight"])
        assert torch.equal(reply.means["3.weight"], start["3.weight"])
    # In the next round the client takes it from the shared network, and its own means from itself.
    view = dataclasses.replace(cohort.client_view("client00", 2), training=Training(0, 8, 0.002))
    after, _, _ = method.client_step(states["client00"], server, view)
    assert torch.equal(after.own.means["2.weight"], server.shared.means["2.weight"])
    assert torch.equal(after.own.means["1.weight"], states["client00"].own.means["1.weight"])


def test_one_step_follows_the_loss_written_out() -> None:
    cohort = make_cohort("mlp", clients=1, seed=3)
    # All examples in one batch, whose order the loss does not see, and no step.
    view = dataclasses.replace(cohort.client_view("client00", 1), training=Training(1, 64, 0.0))
    method = PFedBayes(divergence_weight=0.7, initial_rho=-3.0, samples=2)
    start = method.init_client(view).own
    own = Distribution({name: value + 0.05 for name, value in start.means.items()}, start.rhos)
    _, _, metrics = method.client_step(Believed(own, None), Prior(start), view)

    pair = Pair(view, own, start)
    inputs, labels = view.train.ready(view.device).inputs, view.train.labels
    noise = generator(3, 1, "client00", "noise")
    loss = torch.stack([functional.cross_entropy(pair.draw(inputs, noise), labels) for _ in range(2)]).mean()
    loss = loss + 0.7 / 24 * pair.divergence()

    noise = generator(3, 1, "client00", "noise")
    q = {name: (own.means[name].clone().requires_grad_(), own.rhos[name].clone().requires_grad_()) for name in start.rhos}
    w = {name: (start.means[name].clone().requires_grad_(), start.rhos[name].clone().requires_grad_()) for name in start.rhos}
    network, expected = build(view.network, 0), torch.zeros(())
    for _ in range(2):
        drawn: Tensors = {}
        for name, (mean, rho) in q.items():
            drawn[name] = mean + torch.log1p(rho.exp()) * torch.randn(mean.shape, generator=noise)
        expected = expected + functional.cross_entropy(functional_call(network, drawn, (inputs,)), labels) / 2
    for name in q:
        (m1, r1), (m2, r2) = q[name], w[name]
        s1, s2 = torch.log1p(r1.exp()), torch.log1p(r2.exp())
        expected = expected + 0.7 / 24 * ((s2 / s1).log() + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5).sum()
    assert metrics["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    expected.backward()
    weights = dict(pair.network.named_parameters())
    for at, name in enumerate(pair.names):
        found = (weights[name], pair.rhos[at], pair.shared_means[at], pair.shared_rhos[at])
        for value, wanted in zip(found, (*q[name], *w[name]), strict=True):
            assert value.grad is not None
            assert wanted.grad is not None
            assert torch.allclose(value.grad, wanted.grad, rtol=1e-3, atol=1e-5)


def test_the_shared_distribution_follows_the_clients_only_by_the_divergence() -> None:
    def moved(weight: float) -> float:
        cohort = make_cohort("mlp")
        results, _ = run(PFedBayes(divergence_weight=weight), cohort, Schedule(2, 4))
        server = unpack(Prior, results[-1].progress.server).shared
        assert server is not None
        start = common_weights(cohort.networks["client00"], 0)
        return sum((server.means[name] - start[name]).square().sum().item() for name in start)

    assert moved(0.0) == 0.0
    assert moved(0.1) > 0.0


def test_the_server_mixes_plain_means() -> None:
    def of(mean: float, rho: float) -> Distribution:
        return Distribution({"w": torch.tensor([mean])}, {"w": torch.tensor([rho])})

    view = InProcess(PFedBayes(), Workers(make_cohort("mlp"))).server_view(1)
    replies = {"a": of(0.0, -4.0), "b": of(4.0, -2.0)}
    for method, old, mean, rho in (
        (PFedBayes(), of(10.0, -5.0), 2.0, -3.0),
        (PFedBayes(mixing=0.25), of(10.0, -5.0), 8.0, -4.5),
        (PFedBayes(mixing=0.25), None, 2.0, -3.0),
    ):
        server, _ = method.server_step(Prior(old), replies, view)
        assert server.shared is not None
        assert server.shared.means["w"].item() == mean
        assert server.shared.rhos["w"].item() == rho
        backwards, _ = method.server_step(Prior(old), dict(reversed(replies.items())), view)
        assert pack(backwards) == pack(server)


def test_the_shared_copy_goes_up_and_the_own_distribution_stays_with_the_client() -> None:
    view, method = make_cohort("mlp", clients=1).client_view("client00", 1), PFedBayes()
    start = method.init_client(view).own
    # A mean 1 off, some 55 deviations: of its copy of the shared one all rhos rise by a step of Adam, and all means, too.
    state = Believed(Distribution({name: value + 1 for name, value in start.means.items()}, start.rhos), None)
    shared = Distribution(start.means, {name: rho - 1 for name, rho in start.rhos.items()})
    once = dataclasses.replace(view, training=Training(1, 64, 0.01))
    after, sent, _ = method.client_step(state, Prior(shared), once)
    for part, before in ((sent.means, shared.means), (sent.rhos, shared.rhos)):
        assert part.keys() == before.keys()
        for name, value in part.items():
            torch.testing.assert_close(value, before[name] + 0.01, rtol=0, atol=1e-5)
    for name, value in after.own.means.items():
        assert torch.all((value - state.own.means[name]).abs() < 0.0101)
        assert not torch.equal(after.own.rhos[name], state.own.rhos[name])
    # The next round's shared distribution takes neither place, whatever it is.
    idle = dataclasses.replace(view, round=2, training=Training(0, 64, 0.01))
    later, sent, _ = method.client_step(after, Prior(shared), idle)
    for found, expected in ((later.own, after.own), (sent, shared)):
        assert equal(found.means, expected.means)
        assert equal(found.rhos, expected.rhos)
    assert equal(dict(method.personal_model(later, idle).state_dict()), after.own.means)
    teacher = method.teacher_model(later, idle)
    assert teacher is not None
    assert equal(dict(teacher.state_dict()), shared.means)


def test_recurrent_and_attention_layers_are_drawn_too() -> None:
    for network in ("lstm", "transformer"):
        spec = ModelSpec(network, (6,), 3)
        cohort = make_cohort("mlp", clients=1)
        view = dataclasses.replace(cohort.client_view("client00", 1), network=spec)
        start = PFedBayes(initial_rho=-3.0).init_client(view).own
        pair = Pair(view, start, start)
        logits = pair.draw(torch.arange(12).view(2, 6), generator(0, "noise"))
        gradients: list[Tensor | None] = list(torch.autograd.grad(logits.square().sum(), list(pair.rhos), allow_unused=True))
        assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        (PFedBayes(divergence_weight=-0.1), "divergence_weight"),
        (PFedBayes(samples=0), "samples"),
        (PFedBayes(mixing=0.0), "mixing"),
        (PFedBayes(mixing=1.5), "mixing"),  # running variances would be carried beyond their mean
        (PFedBayes(initial_rho=float("nan")), "initial_rho"),
    ],
)
def test_settings_out_of_range_are_refused(method: PFedBayes, setting: str) -> None:
    cohort = make_cohort("mlp")
    with pytest.raises(SettingError, match=f"algorithm.{setting} .*pfedbayes: choose"):
        method.check(Setup(cohort.networks, cohort.federation.public, cohort.training, 4))


def test_several_structures_are_refused() -> None:
    cohort = make_cohort("cnn1", "mlp")
    with pytest.raises(SettingError, match=r"pfedbayes averages whole networks.*cnn1, mlp.*clients.models"):
        PFedBayes().check(Setup(cohort.networks, cohort.federation.public, cohort.training, 4))
