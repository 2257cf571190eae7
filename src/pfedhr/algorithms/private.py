"""What every client does: make its network from weights, and train it on its own examples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from pfedhr.algorithm import ClientView, Metrics
from pfedhr.learning import fit
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


def train_privately(view: ClientView, weights: Tensors, term: Term | None = None) -> tuple[Tensors, Metrics]:
    """Return the weights after training on the client's examples by cross entropy, plus `term` if given, and the last loss."""
    examples = view.train.ready(view.device)
    model = restore(view.network, weights).to(view.device)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        logits = model(examples.inputs[batch])
        value = functional.cross_entropy(logits, examples.labels[batch])
        return value if term is None else value + term(logits, batch)

    name = (view.round, view.id)
    with seeded(view.seed, *name, "dropout"):
        last = fit(model, len(examples), loss, view.training, generator(view.seed, *name, "batches"))
    return weights_of(model), {"loss": last}
