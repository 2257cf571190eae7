"""Operators that write into a tensor (`h += f(h)`): they stay such where another name sees what they write."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx

WRITING: dict[Any, Callable[..., Any]] = {
    getattr(operator, f"i{name.rstrip('_')}"): getattr(operator, name)
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and_", "or_")
}
"""The operators that write into their first argument, each with the one that gives the same as a new tensor."""


class Written(fx.Proxy):
    """A value of the graph that `h += 1`, `h[0] = 1` and their like write into."""

    def __setitem__(self, place: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, place, value), {})


def _writer(function: Callable[..., Any]) -> Callable[[Written, Any], Any]:
    def write(value: Written, other: Any) -> Any:
        if not isinstance(value.node.meta["values"][0], Tensor):
            return NotImplemented  # a number: Python goes on with what gives a new one
        return value.tracer.create_proxy("call_function", function, (value, other), {})

    return write


for _function in WRITING:
    setattr(Written, f"__{_function.__name__}__", _writer(_function))


def held_memory(node: fx.Node) -> Any:
    """Return what the tensor that `node` gives shares with all views of it; None for what is no tensor."""
    value = node.meta.get("values", (None,))[0]  # the output has none
    return value.untyped_storage() if isinstance(value, Tensor) else None


def write_where_seen(graph: fx.Graph) -> None:
    """Let operators of `graph` write only where someone sees it: who reads that memory later, or the network's own tensors.

    Elsewhere a new tensor is the same, and networks are cut between tensors that nobody changes. Shapes are those of
    evaluation, where most tensors share memory: dropout hands on what it gets.
    """
    place = {node: at for at, node in enumerate(graph.nodes)}
    holders: dict[Any, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.target in WRITING and not _seen(node, holders[held_memory(node)], place):
            node.target = WRITING[node.target]
        holders.setdefault(held_memory(node), []).append(node)


def _seen(node: fx.Node, holders: list[fx.Node], place: dict[fx.Node, int]) -> bool:
    """Return whether what `node` writes into the memory of `holders`, all before it, shows elsewhere than in its own value."""
    into, other = cast("list[Any]", fx.map_arg(list(node.args), lambda one: one.meta["values"][0]))
    if torch.result_type(into, other) != into.dtype:
        return True  # a new tensor would be of another type
    return any(holder.op == "get_attr" or any(place[user] > place[node] for user in holder.users) for holder in holders)
