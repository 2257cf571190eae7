"""Letting the size of the batch be a value of the graph where Python or torch would insist on a number."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map_only

from pfedhr.reassembly.symbolic import ShapeTracer, shaped

_FACTORIES = ("arange", "empty", "full", "ones", "zeros")
"""Functions that take sizes and no tensor, so that torch would not tell the tracer of a batch size among them."""


@contextmanager
def sizes_may_be_values(tracer: ShapeTracer) -> Generator[None]:
    """Let torch's factory functions take sizes that are values of the graph, and len() of a tensor give one."""
    originals = {name: getattr(torch, name) for name in _FACTORIES}
    length = builtins.len
    try:
        for name, function in originals.items():
            setattr(torch, name, _following(function, tracer))
        builtins.len = _length(length)
        yield
    finally:
        builtins.len = length
        for name, function in originals.items():
            setattr(torch, name, function)


def _following(function: Callable[..., Any], tracer: ShapeTracer) -> Callable[..., Any]:
    def factory(*args: Any, **kwargs: Any) -> Any:
        found: list[fx.Proxy] = []
        tree_map_only(fx.Proxy, found.append, (args, kwargs))
        return tracer.create_proxy("call_function", function, args, kwargs) if found else function(*args, **kwargs)

    return factory


def _length(length: Callable[[Any], int]) -> Callable[[Any], Any]:
    """Return a len() for which a tensor's batch size is a value: Python's own must give a number."""

    def length_or_value(of: Any, /) -> Any:
        if isinstance(of, fx.Proxy) and isinstance(shaped(of.node), Tensor):
            return of.size(0)
        return length(of)

    return length_or_value
