"""Known answers of pFedBayes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from toy import equal, make_cohort

from pfedhr.algorithm import SettingError, Setup
from pfedhr.algorithms.pfedbayes import (
    Distribution,
    Pair,
    PFedBayes,
    Prior,
    distributed,
    gaussian_divergence,
)
from pfedhr.algorithms.private import common_weights, restore
from pfedhr.in_process import InProcess, Workers
from pfedhr.learning import Training
from pfedhr.models import ModelSpec, build
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
