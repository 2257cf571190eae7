"""How clients of pFedBayes train, and how the server follows."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional
from toy import equal, make_cohort
from toy_rounds import run

from pfedhr.algorithms.pfedbayes import (
    Believed,
    Distribution,
    Pair,
    PFedBayes,
    Prior,
)
from pfedhr.algorithms.private import common_weights, train_privately
from pfedhr.federate import Schedule
from pfedhr.in_process import InProcess, Workers
from pfedhr.learning import Training
from pfedhr.models import build
from pfedhr.parcel import Tensors, pack, unpack
from pfedhr.seeding import generator


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
