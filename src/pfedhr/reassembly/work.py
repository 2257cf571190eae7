"""How much operations would compute, counted where they run on shapes alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

WORK_LIMIT = 10**11
"""Multiply-adds of a network for one input: a vision transformer of 300 million weights takes six tenths at 224 x 224."""

_BAGS = ("_embedding_bag", "_embedding_bag_forward_only")


class Work(TorchDispatchMode):
    """Counts in `done` the multiply-adds of all operations that run inside the block; what moves or maps a number is one."""

    def __init__(self) -> None:
        super().__init__()
        self.done = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation and count it."""
        kwargs = kwargs or {}
        value = func(*args, **kwargs)
        self.done += _multiply_adds(func, args, kwargs, value)
        return value


def _multiply_adds(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Any) -> int:
    if formula := flop_registry.get(func.overloadpacket):
        return formula(*args, **kwargs, out_val=value) // 2
    names = _names(func)
    if "kernel_size" in names:  # poolings: each number comes from as many as the kernel has
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        return max(_sizes(value)) * _kernel(given["kernel_size"], args[0].dim())
    if func.overloadpacket.__name__ in _BAGS:
        return args[1].numel() * args[0].shape[1]
    if func is torch.ops.aten._trilinear.default:  # of bilinear layers, whose weight is the second
        return max(_sizes(value)) * args[1].numel()
    return max(_sizes((args, kwargs, value)), default=0)


@functools.cache
def _names(func: Any) -> list[str]:
    return [argument.name for argument in func._schema.arguments]


def _sizes(values: Any) -> list[int]:
    return [one.numel() for one in tree_leaves(values) if isinstance(one, Tensor)]


def _kernel(size: int | Sequence[int], axes: int) -> int:
    """Return how many numbers a kernel covers, at most; one size is that of every axis."""
    sizes = [size] if isinstance(size, int) else size
    return math.prod(sizes) if len(sizes) > 1 else sizes[0] ** (axes - 1)
