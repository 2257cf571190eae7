"""Running a graph that came from elsewhere on shapes alone, which stops at what would be too large."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from pfedhr.parcel import ParcelError
from pfedhr.reassembly.layer_shapes import run_layer, steps_of
from pfedhr.reassembly.work import WORK_LIMIT, Work

COUNT_LIMIT = 20_000
"""Layers of one blueprint, tensors in them and beside them, values, and items in all tuples that the values are."""
NUMBER_LIMIT = 2**40
"""Size of a whole number among the arguments, or computed from shapes."""
VALUES_LIMIT = 2**28
"""Numbers in one value of the graph."""
LIVE_LIMIT = 2**30
"""Numbers in all values that are there at once."""

_PIECES = (torch.unbind, torch.split, torch.chunk, torch.tensor_split, "unbind", "split", "chunk")


def run_shapes(module: fx.GraphModule, shape: Sequence[int], dtype: torch.dtype) -> None:
    """Run `module`, which is on the meta device, on inputs of `shape`, the batch axis included.

    Raises ParcelError for what would be too large or take too long, and whatever the graph's operations raise.
    """
    with torch.device("meta"), Work() as work:  # also what the graph makes of sizes alone takes no memory
        _Shapes(module, work, shape[0]).run(torch.empty(list(shape), dtype=dtype))


def whole_number(value: Any, *, signed: bool = False) -> int:
    """Return `value` if it is a whole number of moderate size, and not below zero unless `signed`. Raises ParcelError."""
    if not isinstance(value, int) or not (-NUMBER_LIMIT if signed else 0) <= value <= NUMBER_LIMIT:
        raise ParcelError(f"the blueprint holds the number {str(value)[:40]}, where a smaller whole one was expected")
    return value


class _Shapes(fx.Interpreter):
    """Runs a graph on shapes once, and stops at what would be too large, or too much work for so many examples."""

    def __init__(self, module: fx.GraphModule, work: Work, examples: int) -> None:
        super().__init__(module)
        self._work, self._examples = work, examples
        self.extra_traceback = False  # errors are told in a line
        self._items = self._live = 0
        self._sizes: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        self._check_call(n, args, kwargs)
        value = super().run_node(n)
        if self._work.done > WORK_LIMIT * self._examples:
            each = self._work.done // self._examples
            raise ParcelError(
                f"up to {n.name} an input takes {each} multiply-adds, more than {WORK_LIMIT}: send a smaller network"
            )
        items = self._items_of(value, n.name)
        for item in items:
            _check_item(item, n.name)
        self._sizes[n] = sum(item.numel() for item in items if isinstance(item, Tensor)) if n.users else 0
        self._live += self._sizes[n]
        if self._live > LIVE_LIMIT:
            raise ParcelError(f"{n.name} is one of values of {self._live} numbers at once, more than {LIVE_LIMIT}")
        self._live -= sum(self._sizes[last] for last in self.user_to_last_uses.get(n, ()))
        return value

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer, before = self.fetch_attr(target), self._work.done
        value = run_layer(layer, args, kwargs, again=False)
        self._work.done += (self._work.done - before) * (steps_of(layer, args) - 1)
        return value

    def _check_call(self, n: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise ParcelError for a call that must not be made even on shapes, or never on numbers."""
        first: Any = next(iter(args), None)
        if n.target in _PIECES and (not isinstance(first, Tensor) or max(first.shape, default=0) > COUNT_LIMIT):
            raise ParcelError(f"{n.name} would give more than {COUNT_LIMIT} pieces")
        if n.target is operator.pow and not isinstance(first, Tensor):
            raise ParcelError("the blueprint takes the power of a number: it may have more digits than memory")
        if n.target in (operator.mul, operator.imul) and any(isinstance(one, list | tuple | str) for one in args):
            raise ParcelError("the blueprint repeats a sequence: it may be longer than memory")
        layer = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        bag = n.target is functional.embedding_bag or isinstance(layer, nn.EmbeddingBag)
        given = any(kwargs.get(name) is not None for name in ("offsets", "per_sample_weights"))
        # Where bags are told by offsets torch reads at any address that these name, and they are numbers, not shapes.
        if bag and (len(args) != (2 if layer is None else 1) or first.dim() != 2 or given):
            raise ParcelError(f"{n.name} takes bags otherwise than as rows (batch, words): give no offsets and no weights")

    def _items_of(self, value: Any, name: str) -> list[Any]:
        """Return `value`, or what is in it if it is a tuple, in a tuple in it, and so on."""
        found = [value]
        for item in found:
            if isinstance(item, tuple | list):
                self._items += len(item)
                if self._items > COUNT_LIMIT:
                    raise ParcelError(f"with {name} the blueprint has more than {COUNT_LIMIT} values in tuples")
                found += item
        return [item for item in found if not isinstance(item, tuple | list)]


def _check_item(value: Any, name: str) -> None:
    if isinstance(value, Tensor):
        if value.numel() > VALUES_LIMIT:
            raise ParcelError(f"{name} gives {value.numel()} numbers, more than {VALUES_LIMIT}")
    elif isinstance(value, int):
        whole_number(value, signed=True)
    elif value is not None and not isinstance(value, float | torch.device):
        raise ParcelError(f"{name} gives a {type(value).__name__}")
