"""Per-FedAvg: the mean of networks that are good after one more step of each client.

A. Fallah, A. Mokhtari, A. Ozdaglar, "Personalized Federated Learning with Theoretical Guarantees: A Model-Agnostic
Meta-Learning Approach", NeurIPS 2020, arXiv 2002.07948. It minimises the mean over clients of f(w - alpha grad f(w)) by
the gradient (I - alpha H(w)) grad f(w - alpha grad f(w)); first order leaves H out, Hessian-free takes a difference of
gradients for it. Up: weights, and the number of examples, which the mean does not use. Down: their plain mean.

Departures: what serves a client is its own network after its last training and steps of size alpha on private examples, where
the paper takes these steps from the shared model; the outer step is Adam's at the experiment's learning rate, as in every
method here; running statistics of batch norms are averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pfedhr.algorithm import ClientView, Metrics, ServerView, Setup
from pfedhr.algorithms.held import Held, Shared
from pfedhr.algorithms.homogeneous import Homogeneous, Trained, mean, received
from pfedhr.algorithms.needs import above_zero, at_least
from pfedhr.algorithms.private import gradients_of, restore, train, weights_of
from pfedhr.seeding import forked, generator, seeded

Gradients = Sequence[Tensor]
Evaluate = Callable[[], Tensor]
"""Computes a loss at the weights as they now are."""


@dataclass(frozen=True)
class PerFedAvg(Homogeneous):
    """Federated averaging of models that adapt in one step."""

    variant: Literal["first-order", "hessian-free"] = "first-order"
    """How the second derivative is treated: left out, or by a difference of gradients."""
    inner_learning_rate: float = 0.01
    """Size of a client's own step (alpha)."""
    difference: float = 0.001
    """Step of the difference of gradients (delta), for hessian-free."""
    adaptation_steps: int = 1
    """Steps on private batches after training, to the network that serves the client."""

    name = "per-fedavg"
    uncovered = "its meta-gradients and its adaptation draw batches of private examples of their own, which no noise covers"

    def check(self, setup: Setup) -> None:
        """Raise SettingError for several structures, or settings out of range."""
        super().check(setup)
        above_zero(self, "difference")
        at_least(self, inner_learning_rate=0, adaptation_steps=1)

    def client_step(self, state: Held, message: Shared, view: ClientView) -> tuple[Held, Trained, Metrics]:
        """Train the shared model by meta-gradients; then adapt a copy of what came of it."""
        examples = view.train.ready(view.device)
        model = restore(view.network, received(message, view)).to(view.device)
        weights = [value for value in model.parameters() if value.requires_grad]
        rng = generator(view.seed, view.round, view.id, "meta-batches")

        def on(batch: Tensor) -> Evaluate:
            return lambda: functional.cross_entropy(model(examples.inputs[batch]), examples.labels[batch])

        def loss(_: nn.Module, batch: Tensor) -> Tensor:
            support, curvature = (torch.randint(len(examples), batch.shape, generator=rng).to(view.device) for _ in "12")
            value, gradients = meta_gradient(
                weights,
                on(support),
                on(batch),
                on(curvature) if self.variant == "hessian-free" else None,
                self.inner_learning_rate,
                self.difference,
            )
            # A scalar with this value and these gradients, for the optimiser that every method shares.
            return value + sum(
                ((weight - weight.detach()) * gradient).sum() for weight, gradient in zip(weights, gradients, strict=True)
            )

        last = train(view, model, loss)
        shared = weights_of(model)
        with seeded(view.seed, view.round, view.id, "adaptation"):
            for _ in range(self.adaptation_steps):
                batch = torch.randint(len(examples), (view.training.batch_size,), generator=rng).to(view.device)
                _step(weights, gradients_of(on(batch)(), weights), -self.inner_learning_rate)
        return Held(weights_of(model), message.weights), Trained(shared, len(view.train)), {"loss": last}

    def server_step(self, server: Shared, replies: Mapping[str, Trained], view: ServerView) -> tuple[Shared, Metrics]:
        """Return the plain mean of the replies."""
        return Shared(mean(replies, by_examples=False)), {}


def meta_gradient(
    weights: Sequence[nn.Parameter],
    support: Evaluate,
    query: Evaluate,
    curvature: Evaluate | None,
    inner_learning_rate: float,
    difference: float,
) -> tuple[Tensor, Gradients]:
    """Return the query's loss after a step on the support's, and the gradient of that with respect to the weights before it.

    `curvature` gives the Hessian-free correction; None leaves it out. The weights are left bit for bit as they were.
    """
    start = [weight.detach().clone() for weight in weights]
    _step(weights, gradients_of(support(), weights), -inner_learning_rate)
    value = query()
    gradients = gradients_of(value, weights)
    _restore(weights, start)
    if curvature is None:
        return value.detach(), gradients
    sides: list[Gradients] = []
    for sign in (1, -1):
        _step(weights, gradients, sign * difference)
        # Both sides drop the same units: another draw would outweigh the difference of so small a step.
        with forked() if sign == 1 else nullcontext():
            sides.append(gradients_of(curvature(), weights))
        _restore(weights, start)
    products = [(above - below) / (2 * difference) for above, below in zip(*sides, strict=True)]
    return value.detach(), [
        gradient - inner_learning_rate * product for gradient, product in zip(gradients, products, strict=True)
    ]


@torch.no_grad()
def _step(weights: Sequence[nn.Parameter], direction: Gradients, size: float) -> None:
    for weight, change in zip(weights, direction, strict=True):
        weight.add_(change, alpha=size)


@torch.no_grad()
def _restore(weights: Sequence[nn.Parameter], start: Sequence[Tensor]) -> None:
    for weight, value in zip(weights, start, strict=True):
        weight.copy_(value)
