"""Slices of a network: the first outputs of every hidden layer and the inputs that match, as HeteroFL trains them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pfedhr.algorithms.admission import minus_infinite
from pfedhr.heads import head_name
from pfedhr.inference import predict
from pfedhr.learning import batches
from pfedhr.models import ModelSpec, build
from pfedhr.parcel import Tensors

Shapes = dict[str, tuple[int, ...]]
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Slice:
    """What goes up: the trained slice, and which classes its client has."""

    weights: Tensors
    classes: tuple[int, ...]


@functools.cache
def shapes_of(network: ModelSpec) -> Shapes:
    """Return the shape of every tensor of a network, by name."""
    return {name: tuple(value.shape) for name, value in build(network, 0).state_dict().items()}


def rates_of(network: ModelSpec, global_network: ModelSpec) -> dict[str, float]:
    """Return the share of the global network's outputs that each layer has, by the layer's name, where that is not all."""
    own, full = shapes_of(network), shapes_of(global_network)
    layers = [name for name, layer in build(network, 0).named_modules() if isinstance(layer, LAYERS)]
    rates = {name: own[f"{name}.weight"][0] / full[f"{name}.weight"][0] for name in layers}
    return {name: rate for name, rate in rates.items() if rate < 1}


def slice_of(weights: Tensors, shapes: Shapes) -> Tensors:
    """Return the slice of a global network's weights that has these shapes: the first entries along every axis."""
    return {name: weights[name][_region(shape)].clone() for name, shape in shapes.items()}


@functools.cache
def head_of(network: ModelSpec) -> tuple[str, str]:
    """Return the names of the last layer's weights, whose rows are classes."""
    name = head_name(build(network, 0), network.classes)
    return f"{name}.weight", f"{name}.bias"


def slice_fault(part: Slice, complete: Tensors, head: Sequence[str], classes: int) -> str:
    """Return what a slice has that one of the network with these weights and so many classes cannot have, or nothing."""
    if part.weights.keys() != complete.keys():
        return f"it has other tensors: {sorted(part.weights.keys() ^ complete.keys())[:3]}"
    for name, value in complete.items():
        given = part.weights[name]
        fits = given.dim() == value.dim() and not any(map(operator.gt, given.shape, value.shape))
        if given.dtype != value.dtype or not fits or (name in head and len(given) != classes):
            return f"{name} is {str(given.dtype)[6:]} of shape {tuple(given.shape)}, no slice of {tuple(value.shape)}"
        if not torch.equal(*map(minus_infinite, (given, value[_region(given.shape)]))):
            return f"{name} is not finite where the global network is"
    if not part.classes or len(set(part.classes)) < len(part.classes) or not set(part.classes) <= set(range(classes)):
        return f"its classes are not different numbers below {classes}"
    return ""


def joined(old: Tensors, sent: Sequence[Slice], head: tuple[str, ...]) -> Tensors:
    """Return `old` with the mean of the slices wherever at least one has a value; of `head` their own classes' rows count.

    Counters, which have no mean, take their largest value.
    """
    new: Tensors = {}
    for name, value in old.items():
        if not value.is_floating_point():
            new[name] = torch.stack([part.weights[name] for part in sent]).amax(0)
            continue
        total, count = torch.zeros_like(value), torch.zeros_like(value)
        for part in sent:
            given = part.weights[name]
            rows = torch.tensor(part.classes) if name in head else slice(None)
            for target, added in ((total, given), (count, torch.ones_like(given))):
                place = target[_region(given.shape)]
                if given.dim():
                    place[rows] += added[rows]
                else:
                    place += added
        new[name] = torch.where(count > 0, total / count, value)
    return new


@contextmanager
def scaled(model: nn.Module, rates: Mapping[str, float]) -> Generator[None]:
    """Divide the outputs of layers by their rates inside the block."""

    def dividing(rate: float) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        return lambda layer, inputs, outputs: outputs / rate

    handles = [model.get_submodule(name).register_forward_hook(dividing(rate)) for name, rate in rates.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def divide(model: nn.Module, rates: Mapping[str, float]) -> None:
    """Divide the weights of layers by their rates in place: the same network as `scaled` makes, for good."""
    shares = {weight: rate for name, rate in rates.items() for weight in model.get_submodule(name).parameters()}
    for weight, rate in shares.items():  # once each, though several layers may share one
        weight.div_(rate)


@torch.no_grad()
def silence(model: nn.Module, classes: int, absent: Tensor) -> None:
    """Let the logits of `absent` (classes,) bool be 0, in place."""
    for weight in model.get_submodule(head_name(model, classes)).parameters():
        weight[absent] = 0.0


@torch.no_grad()
def measure_statistics(model: nn.Module, inputs: Tensor, batch_size: int, rng: torch.Generator) -> None:
    """Let the running statistics of batch norms be the mean of those of one epoch's batches, in place.

    Batches are as in training, and so are the norms; everything else runs as in evaluation.
    """
    norms = [layer for layer in model.modules() if isinstance(layer, NORMS) and layer.track_running_stats]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
        norm.train()
    if norms:
        for batch in batches(len(inputs), batch_size, rng, inputs.device):
            model(inputs[batch])


def is_slice(part: nn.Module, global_network: nn.Module, examples: Tensor) -> bool:
    """Return whether `part` computes what the global network does once all that lies outside of the slice is 0."""
    own, full = part.state_dict(), global_network.state_dict()
    if own.keys() != full.keys():
        return False
    for name, value in own.items():
        shape = full[name].shape
        if value.dim() != len(shape) or any(size > limit for size, limit in zip(value.shape, shape, strict=True)):
            return False
    learnt = {name for name, _ in global_network.named_parameters(remove_duplicate=False)}
    for name, value in own.items():
        if name in learnt:  # elsewhere a variance of 1 stays 1
            full[name].zero_()
        full[name][_region(value.shape)] = value
    logits, expected = predict(global_network, examples), predict(part, examples)
    return logits.shape == expected.shape and torch.allclose(logits, expected, rtol=1e-4, atol=1e-5)


def _region(shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(0, size) for size in shape)
