"""What every client does: make its network from weights, and train it on its own examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from pfedhr.algorithm import ClientView, Metrics
from pfedhr.data import Examples
from pfedhr.learning import Loss, Penalty, Training, fit, fit_privately, steady
from pfedhr.models import ModelSpec, build
from pfedhr.parcel import Tensors
from pfedhr.seeding import generator, keyed, seeded
from pfedhr.zoo import ModelError

Term = Callable[[Tensor, Tensor], Tensor]
"""What a method adds to the cross entropy: maps the logits (batch, classes) and places of a batch to a mean over it."""


def initial_weights(view: ClientView) -> Tensors:
    """Return the client's own initial weights, the same for every method."""
    return weights_of(build(view.network, view.seed, "initial weights", view.id))


def weights_of(model: nn.Module) -> Tensors:
    """Return a copy of the model's state_dict on the CPU."""
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in model.state_dict().items()
    }


def restore(network: ModelSpec, weights: Tensors) -> nn.Module:
    """Return the network with `weights`. Raises ModelError if they are another network's."""
    model = build(network, 0)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            f"model {network.factory!r} is no longer the network that the run was begun with, whose weights have other names "
            f"or shapes: restore its code, or begin anew with another --out"
        ) from error
    return model


def common_weights(network: ModelSpec, seed: int) -> Tensors:
    """Return the initial weights that every client with `network` can make by itself, for methods that begin with one model."""
    return weights_of(build(network, seed, "initial weights"))


def or_common(weights: Tensors | None, network: ModelSpec, seed: int) -> Tensors:
    """Return the weights that came, or where none have come yet those that everyone with `network` makes by itself."""
    return common_weights(network, seed) if weights is None else weights


def train(
    view: ClientView,
    model: nn.Module,
    loss: Loss,
    penalty: Penalty | None = None,
    training: Training | None = None,
) -> float:
    """Train `model` in place on the private examples by `loss` plus `penalty`, and return the last mean loss.

    The batches of a round are the same for every method. Where the view asks for privacy, it is by DP-SGD, in batches and
    with noise that its secret gives.
    """
    count, training = len(view.train), training or view.training
    with seeded(view.seed, view.round, view.id, "dropout"):
        if view.privacy is None:
            whole = loss if penalty is None else _with_penalty(loss, penalty)
            return fit(model, count, whole, training, generator(view.seed, view.round, view.id, "batches"))
        secret = view.seed if view.privacy.secret is None else view.privacy.secret
        rng, noise = (keyed(secret, view.round, view.id, purpose) for purpose in ("batches", "privacy noise"))
        return fit_privately(model, count, loss, training, view.privacy, rng, noise, penalty)


def _with_penalty(loss: Loss, penalty: Penalty) -> Loss:
    return steady(lambda model, batch: loss(model, batch) + penalty(), loss, penalty)


def gradients_of(loss: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients of a scalar, 0 for weights that have no part in it, such as those of an auxiliary head."""
    return torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)


def train_beside(view: ClientView, model: nn.Module, loss: Loss, purpose: str, training: Training, count: int) -> float:
    """Train `model` in place on `count` examples that are not private, and return the last mean loss.

    `purpose` tells it from the round's other trainings.
    """
    name = (view.round, view.id, purpose)
    with seeded(view.seed, *name, "dropout"):
        return fit(model, count, loss, training, generator(view.seed, *name, "batches"))


def train_model(view: ClientView, model: nn.Module, term: Term | None = None, penalty: Penalty | None = None) -> Metrics:
    """Train `model` in place on the client's examples by cross entropy, plus what is given, and return the last loss."""
    examples = view.train.ready(view.device)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        logits = model(examples.inputs[batch])
        value = functional.cross_entropy(logits, examples.labels[batch])
        return value if term is None else value + term(logits, batch)

    return {"loss": train(view, model, steady(loss, term), penalty)}


def train_privately(view: ClientView, weights: Tensors, term: Term | None = None) -> tuple[Tensors, Metrics]:
    """Return `weights` after `train_model`, and its metrics."""
    model = restore(view.network, weights).to(view.device)
    metrics = train_model(view, model, term)
    return weights_of(model), metrics


def train_on_public(view: ClientView, model: nn.Module, epochs: int) -> None:
    """Train `model` in place on the public examples, whose labels the method's check has asked for."""
    public = view.public.ready(view.device)
    assert isinstance(public, Examples)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return functional.cross_entropy(model(public.inputs[batch]), public.labels[batch])

    train_beside(view, model, steady(loss), "public", replace(view.training, epochs=epochs), len(public))
