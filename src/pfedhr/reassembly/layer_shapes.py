"""The shapes that a layer gives, where running it at every size would take long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  - all batch norms and no others
from torch.utils._pytree import tree_map


def run_recurrent(layer: nn.RNNBase, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the shapes that a recurrent layer gives, by running it on the first step of the sequence: without numbers a step
    takes milliseconds, and all are alike.
    """
    if not args or not isinstance(args[0], Tensor) or args[0].dim() != 3:
        return layer(*args, **kwargs)
    axis = _time_axis(layer)
    outputs, state = layer(args[0].narrow(axis, 0, 1), *args[1:], **kwargs)
    return outputs.repeat_interleave(args[0].shape[axis], axis), state


def steps_of(layer: nn.Module, args: tuple[Any, ...]) -> int:
    """Return how often the layer does what `run_layer` does once: a recurrent one for every step of its sequence."""
    if not isinstance(layer, nn.RNNBase) or not args or not isinstance(args[0], Tensor) or args[0].dim() != 3:
        return 1
    return args[0].shape[_time_axis(layer)]


def _time_axis(layer: nn.RNNBase) -> int:
    return 1 if layer.batch_first else 0


def run_layer(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, again: bool) -> Any:
    """Return the shapes that a layer gives; `again`: it ran at another batch size, and a batch norm's are as it gets them."""
    if again and isinstance(layer, _BatchNorm) and args and not kwargs:
        return torch.empty_like(args[0])
    return run_recurrent(layer, args, kwargs) if isinstance(layer, nn.RNNBase) else layer(*args, **kwargs)


def extrapolated(first: Any, second: Any, batches: Sequence[int]) -> Any:
    """Return the shapes at batch size `batches[2]`, given those at the two before: each size grows evenly with the batch."""
    a, b, wanted = batches

    def size(one: int, other: int) -> int:
        return one + (other - one) * (wanted - a) // (b - a)

    def value(one: Any, other: Any) -> Any:
        if isinstance(one, Tensor):
            return one.new_empty([size(*pair) for pair in zip(one.shape, other.shape, strict=True)])
        return size(one, other) if type(one) is int else one

    return tree_map(value, first, second)
