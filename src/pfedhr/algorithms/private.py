"""What every client does: make its network from weights, and train it on its own examples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from pfedhr.algorithm import ClientView, Metrics
from pfedhr.heads import head_name
from pfedhr.learning import Loss, Training, fit
from pfedhr.models import ModelSpec, build
from pfedhr.parcel import Tensors
from pfedhr.seeding import generator, seeded

Term = Callable[[Tensor, Tensor], Tensor]
"""What a method adds to the cross entropy: maps the logits (batch, classes) and places of a batch to a scalar."""


def initial_weights(view: ClientView) -> Tensors:
    """Return the client's own initial weights, the same for every method."""
    return weights_of(build(view.network, view.seed, "initial weights", view.id))


def weights_of(model: nn.Module) -> Tensors:
    """Return a copy of the model's state_dict on the CPU."""
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in model.state_dict().items()
    }


def restore(network: ModelSpec, weights: Tensors) -> nn.Module:
    """Return the network with `weights`. Raises RuntimeError if they are another network's."""
    model = build(network, 0)
    model.load_state_dict(weights)
    return model


def common_weights(network: ModelSpec, seed: int) -> Tensors:
    """Return the initial weights that every client with `network` can make by itself, for methods that begin with one model."""
    return weights_of(build(network, seed, "initial weights"))


def train(
    view: ClientView,
    model: nn.Module,
    loss: Loss,
    purpose: str = "",
    training: Training | None = None,
    count: int | None = None,
) -> float:
    """Train `model` in place on the private examples, and return the last mean loss.

    The batches of a round are the same for every method. A second training in one round has a `purpose`, and its own
    `training` and `count` of examples.
    """
    name = (view.round, view.id, *([purpose] if purpose else []))
    with seeded(view.seed, *name, "dropout"):
        return fit(model, count or len(view.train), loss, training or view.training, generator(view.seed, *name, "batches"))


def take_head(network: ModelSpec, weights: Tensors) -> Tensors:
    """Return the weights of the network's last linear layer, "weight" (classes, features) and "bias" (classes,)."""
    prefix = head_name(build(network, 0), network.classes) + "."
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def put_head(network: ModelSpec, weights: Tensors, head: Tensors) -> Tensors:
    """Return the weights with another head."""
    prefix = head_name(build(network, 0), network.classes) + "."
    return weights | {prefix + name: value for name, value in head.items()}


def train_privately(view: ClientView, weights: Tensors, term: Term | None = None) -> tuple[Tensors, Metrics]:
    """Return the weights after training on the client's examples by cross entropy, plus `term` if given, and the last loss."""
    examples = view.train.ready(view.device)
    model = restore(view.network, weights).to(view.device)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        logits = model(examples.inputs[batch])
        value = functional.cross_entropy(logits, examples.labels[batch])
        return value if term is None else value + term(logits, batch)

    last = train(view, model, loss)
    return weights_of(model), {"loss": last}
