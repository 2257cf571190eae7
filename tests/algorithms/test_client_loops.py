"""A client's round of Per-FedAvg and of pFedMe beside the loop written out, and what pFedMe's server makes of it."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy import equal, make_cohort

from pfedhr.algorithm import ClientView
from pfedhr.algorithms.held import Shared
from pfedhr.algorithms.per_fedavg import PerFedAvg
from pfedhr.algorithms.pfedme import Moved, PFedMe
from pfedhr.algorithms.private import common_weights
from pfedhr.in_process import InProcess, Workers
from pfedhr.parcel import Tensors
from pfedhr.seeding import generator

Weights = list[Tensor]


def linear(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


def a_client() -> tuple[ClientView, Tensors]:
    """A client of two epochs of three batches, and weights for it that are not those it would make itself."""
    view = make_cohort(f"{__name__}:linear", clients=1, epochs=2, seed=3).client_view("client00", 2)
    return view, {name: value + 0.01 for name, value in common_weights(view.network, view.seed).items()}


def loss_and_gradient(view: ClientView, weights: Weights, batch: Tensor) -> tuple[float, Weights]:
    examples, (weight, bias) = view.train.ready(view.device), [value.clone().requires_grad_() for value in weights]
    loss = functional.cross_entropy(examples.inputs[batch].flatten(1) @ weight.T + bias, examples.labels[batch])
    loss.backward()
    assert weight.grad is not None
    assert bias.grad is not None
    return loss.item(), [weight.grad, bias.grad]


def moved(weights: Weights, by: Weights, size: float) -> Weights:
    return [weight + size * change for weight, change in zip(weights, by, strict=True)]


def epochs_of(view: ClientView) -> list[list[Tensor]]:
    rng = generator(view.seed, view.round, view.id, "batches")
    return [list(torch.randperm(24, generator=rng).split(8)) for _ in range(2)]


def close(found: Tensors, expected: Weights) -> None:
    for value, wanted in zip((found["1.weight"], found["1.bias"]), expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ["first-order", "hessian-free"])
def test_a_step_of_per_fedavg_takes_a_batch_for_each_of_its_parts(variant: Literal["first-order", "hessian-free"]) -> None:
    view, start = a_client()
    alpha, delta = 0.5, 0.1
    method = PerFedAvg(variant, inner_learning_rate=alpha, difference=delta)
    state, sent, metrics = method.client_step(method.init_client(view), Shared(start), view)

    weights, losses = [start["1.weight"].clone(), start["1.bias"].clone()], list[float]()
    optimiser = torch.optim.Adam(weights, lr=0.002, weight_decay=1e-4)
    draws = generator(view.seed, view.round, view.id, "meta-batches")
    for epoch in epochs_of(view):
        losses.clear()
        for batch in epoch:
            support, curvature = (torch.randint(24, (8,), generator=draws) for _ in range(2))
            after = moved(weights, loss_and_gradient(view, weights, support)[1], -alpha)
            loss, gradient = loss_and_gradient(view, after, batch)
            if variant == "hessian-free":
                above, below = (
                    loss_and_gradient(view, moved(weights, gradient, size), curvature)[1] for size in (delta, -delta)
                )
                gradient = [g - alpha * (a - b) / (2 * delta) for g, a, b in zip(gradient, above, below, strict=True)]
            losses.append(loss)
            for weight, change in zip(weights, gradient, strict=True):
                weight.grad = change
            optimiser.step()
    close(sent.weights, weights)
    assert metrics["loss"] == pytest.approx(sum(losses) / 3, abs=1e-5)
    assert sent.examples == 24
    adapted = loss_and_gradient(view, weights, torch.randint(24, (8,), generator=draws))[1]
    close(state.weights, moved(weights, adapted, -alpha))
    assert state.shared is start


def test_theta_of_pfedme_serves_the_client_and_w_goes_up() -> None:
    view, start = a_client()
    rate, envelope, eta = 0.05, 4.0, 0.1
    method = PFedMe(envelope, personal_steps=3, personal_learning_rate=rate, shared_learning_rate=eta)
    state, sent, metrics = method.client_step(method.init_client(view), Shared(start), view)

    w, losses = [start["1.weight"], start["1.bias"]], list[float]()
    theta = w
    for epoch in epochs_of(view):
        losses.clear()
        for batch in epoch:
            loss = 0.0
            for _ in range(3):
                loss, gradient = loss_and_gradient(view, theta, batch)
                tied = [g + envelope * (own - held) for g, own, held in zip(gradient, theta, w, strict=True)]
                theta = moved(theta, tied, -rate)
            w = [held + eta * envelope * (own - held) for own, held in zip(theta, w, strict=True)]
            losses.append(loss)
    close(sent.weights, w)
    close(dict(method.personal_model(state, view).state_dict()), theta)
    assert (theta[0] - w[0]).abs().max() > 1e-3
    assert metrics["loss"] == pytest.approx(sum(losses) / 3, abs=1e-5)
    assert sent.examples == 24
    teacher = method.teacher_model(state, view)
    assert teacher is not None
    assert equal(dict(teacher.state_dict()), start)


@pytest.mark.parametrize(("old", "mixing", "new"), [(None, 0.5, 2.0), (10.0, 1.0, 2.0), (10.0, 0.5, 6.0), (10.0, 0.25, 8.0)])
def test_the_server_of_pfedme_mixes_in_the_mean_of_clients_that_count_once_each(
    old: float | None, mixing: float, new: float
) -> None:
    method = PFedMe(mixing=mixing)
    view = InProcess(method, Workers(make_cohort("mlp"))).server_view(1)
    replies = {"a": Moved({"w": torch.tensor([0.0])}, 1, ()), "b": Moved({"w": torch.tensor([4.0])}, 3, ())}
    before = Shared(None if old is None else {"w": torch.tensor([old])})
    server, _ = method.server_step(before, replies, view)
    assert server.weights is not None
    assert server.weights["w"].item() == new
