"""Networks by name: one of the zoo or a user's own "package.module:factory", and what can be known of them before training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pfedhr.errors import nearest
from pfedhr.heads import adapt
from pfedhr.imports import NotFoundError, imported
from pfedhr.inference import inference
from pfedhr.seeding import seeded
from pfedhr.zoo import ZOO, ModelError, Shape


@dataclass(frozen=True)
class ModelSpec:
    """What it takes to make a network again: a name of the zoo or "package.module:factory", its inputs' shape, its classes."""

    factory: str
    shape: tuple[int, ...]
    classes: int
    features: int = 0
    """Width of the features before the last layer, brought about by an adapter (`adapt`); 0 leaves the network as it is."""


def build(spec: ModelSpec, seed: int, *path: int | str) -> nn.Module:
    """Make the network of `spec` with initial weights named by `seed` and `path`.

    Raises ModelError if there is no such factory, or if it fails or returns anything but a module.
    """
    factory = _find(spec.factory)
    try:
        with seeded(seed, *path):
            model = factory(spec.shape, spec.classes)
            if spec.features and isinstance(model, nn.Module):
                adapt(model, spec.features, spec.classes)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"model {spec.factory!r} failed when called with shape {spec.shape} and {spec.classes} classes: "
            f"{type(error).__name__}: {error}. A factory takes (shape, classes) and returns an nn.Module"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model {spec.factory!r} returned a {type(model).__name__}: a factory must return an nn.Module")
    return model


def check_network(spec: ModelSpec, example: Tensor) -> None:
    """Raise ModelError unless the network of `spec` can be trained and maps `example` (2, ...) to logits (2, classes)."""
    model = build(spec, 0)
    if not any(value.requires_grad for value in model.parameters()):
        raise ModelError(f"model {spec.factory!r} has no weight that can be trained: let some require gradients")
    with inference(model):
        _check_output(spec, model, example, "a batch of two")


def check_last_batch(spec: ModelSpec, example: Tensor, count: int, batch_size: int, place: str) -> None:
    """Raise ModelError if an epoch over `count` examples ends in a batch of one that the network cannot be trained on.

    A batch norm over a single value has no variance, for one. `example` (n >= 1, ...) is of the inputs' shape and type;
    `place` says whose examples they are and which setting divides them.
    """
    if batch_size > 1 and count % batch_size != 1:
        return
    try:
        with seeded(0, "check"):
            _check_output(spec, build(spec, 0).train(), example[:1], "a batch of one")
    except ModelError as error:
        raise ModelError(
            f"{place}: {count} examples in batches of {batch_size} leave a batch of one, and {error}; choose another batch "
            f"size, or a network without batch norm on single values"
        ) from error


def _check_output(spec: ModelSpec, model: nn.Module, example: Tensor, batch: str) -> None:
    """Raise ModelError unless `model` maps `example` (n, ...) to one logit a class for each, in the mode that it is in."""
    try:
        logits = model(example.clone())  # for it may change in place what it takes
    except Exception as error:
        raise ModelError(
            f"model {spec.factory!r} failed on {batch} of inputs of shape {spec.shape} and type {example.dtype}: "
            f"{type(error).__name__}: {error}. Choose a network made for these inputs, or inputs that it takes"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (len(example), spec.classes):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"model {spec.factory!r} gave {got} for {batch}, where ({len(example)}, {spec.classes}) was expected: a network "
            f"must return one logit a class; let its last layer have {spec.classes} outputs and return that tensor alone"
        )


def _find(name: str) -> Callable[[Shape, int], Any]:
    """Return the factory called `name`; raise ModelError naming the nearest known names."""
    if name in ZOO:
        return ZOO[name]
    if ":" not in name:
        hint = nearest(name, ZOO)
        raise ModelError(f"unknown model {name!r}: {hint}known are {', '.join(ZOO)}, or your own as 'package.module:factory'")
    try:
        return imported(name)
    except NotFoundError as error:
        raise ModelError(f"model {name!r}: {error}") from error
