"""Networks by name: one of the zoo or a user's own "package.module:factory", and what can be known of them before training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pfedhr.errors import nearest
from pfedhr.heads import HeadError, adapt, check_adapted
from pfedhr.imports import NotFoundError, imported
from pfedhr.inference import LARGEST_BATCH, inference
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
    """Raise ModelError unless the network of `spec` can be trained and maps `example` (2, ...) to logits (2, classes) float32.

    It must do so in evaluation and in training, be made of tensors that can be kept, and be the same whenever it is made; an
    adapter must have taken the place of its head.
    """
    model = build(spec, 0)
    _check_weights(spec, model)
    _check_made_anew(spec, model)
    with seeded(0, "check"):  # dropout draws
        with inference(model):
            _check_output(spec, model, example, "a batch of two")
        if spec.features:
            _check_adapter(spec, model.eval(), example)
        _check_output(spec, model.train(), example, "a batch of two in training")


def check_inputs_of(spec: ModelSpec, inputs: Tensor, which: str) -> None:
    """Raise ModelError unless the network of `spec` takes all `inputs` (n, ...); `which` says which examples they are."""
    model = build(spec, 0)
    with seeded(0, "check"), inference(model):
        for batch in inputs.split(LARGEST_BATCH):
            _check_output(spec, model, batch, which)


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


def _check_weights(spec: ModelSpec, model: nn.Module) -> None:
    """Raise ModelError unless all that `model` is made of are tensors, of which some can be trained."""
    for name, value in model.named_parameters():
        if is_lazy(value):
            raise ModelError(
                f"model {spec.factory!r} has no values in {name!r} before its first inputs: let the factory make all layers of "
                f"their sizes, which it is given the shape of inputs for, rather than lazy ones"
            )
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"model {spec.factory!r} keeps {name!r} of type {type(value).__name__} in its state_dict, where only tensors "
                f"can be kept: register a buffer instead, or leave it out"
            )
    if not any(value.requires_grad for value in model.parameters()):
        raise ModelError(f"model {spec.factory!r} has no weight that can be trained: let some require gradients")


def _check_made_anew(spec: ModelSpec, model: nn.Module) -> None:
    """Raise ModelError unless another network of `spec` under one seed is equal to `model` and has no tensor in common."""
    first, second = _tensors(model), _tensors(build(spec, 0))
    memories = {value.untyped_storage().data_ptr() for value in first.values() if value.numel()}
    for name, value in second.items():
        if value.numel() and value.untyped_storage().data_ptr() in memories:
            raise ModelError(
                f"model {spec.factory!r} gives all clients one {name!r}, which each would train for the others: let the "
                f"factory make a new network each time, as copy.deepcopy does of one that is loaded once"
            )
    for name in sorted(first.keys() | second.keys()):
        if not _equal(first.get(name), second.get(name)):
            raise ModelError(
                f"model {spec.factory!r} is not the same when it is made twice under one seed, which {name!r} shows: let it "
                f"draw from torch alone, not from numpy or random, and be of one size"
            )


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _equal(first: Tensor | None, second: Tensor | None) -> bool:
    """Return whether both are there and alike bit for bit, NaN included."""
    if first is None or second is None or first.shape != second.shape or first.dtype != second.dtype:
        return False
    return torch.allclose(first, second, rtol=0, atol=0, equal_nan=True)


def _check_adapter(spec: ModelSpec, model: nn.Module, example: Tensor) -> None:
    """Raise ModelError unless all that `model` computes comes through the adapter in the place of its last linear layer."""
    try:
        check_adapted(model, spec.classes, example)
    except HeadError as error:
        raise ModelError(
            f"clients.features = {spec.features} would put an adapter into {spec.factory!r} where its head is not: {error}; "
            f"let it end in a linear layer that is the last by name, or set clients.features = 0"
        ) from error


def _check_output(spec: ModelSpec, model: nn.Module, example: Tensor, batch: str) -> None:
    """Raise ModelError unless `model` maps `example` (n, ...) to one float32 logit a class for each, in the mode it is in."""
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
    if logits.dtype != torch.float32:
        raise ModelError(
            f"model {spec.factory!r} gave logits of type {logits.dtype} for {batch}, and methods take torch.float32: let its "
            f"forward() return logits.float(), or name another network in clients.models"
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
