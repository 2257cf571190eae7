"""Following a network's forward() with values that know their shape at three batch sizes, and no numbers.

What is the same at all sizes is a constant, so forward() may compute and branch on it; what differs depends on the batch and
stays part of the graph. Numbers never flow: torch's fake tensors carry shapes and types through every operation.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from pfedhr.errors import PfedhrError
from pfedhr.inference import LARGEST_BATCH
from pfedhr.reassembly.layer_shapes import extrapolated, run_layer
from pfedhr.reassembly.writing import Written

TRAINED_BATCHES = (2, 3, LARGEST_BATCH)
"""The sizes at which forward() is followed in training, `predict`'s the last; none is 1, on which a batch norm cannot train."""
EVALUATED_BATCHES = (2, 1, LARGEST_BATCH)
"""Those in evaluation, in the same order."""
WHOLE_LAYERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
"""Layers of torch.nn that stay whole although their children own weights."""


class DecompositionError(PfedhrError):
    """A network that cannot be cut; the message names the place and the remedies."""


class Mode(nn.Module):
    """Tells a graph whether it is in training."""

    def forward(self) -> bool:
        """Return whether the network is in training."""
        return self.training


def shaped(node: fx.Node) -> Any:
    """Return the value of `node` at the first batch size: a tensor without numbers, or what the graph computes with."""
    return node.meta["values"][0]


class _Value(Written):
    """A value of the graph; it answers with constants whatever does not depend on the batch."""

    tracer: ShapeTracer

    def _known(self) -> tuple[Any, ...]:
        return self.node.meta["values"]

    def _constant(self, what: str) -> Any:
        first, *others = self._known()
        if isinstance(first, Tensor) or any(first != other for other in others):
            raise DecompositionError(
                f"forward() takes {self.node.name} as {what}, but it depends on the inputs or the batch size"
            )
        return first

    @property
    def shape(self) -> tuple[Any, ...]:
        """The sizes of a tensor; those that depend on the batch are values of the graph."""
        shapes = [value.shape for value in self._known()]
        if len({len(shape) for shape in shapes}) != 1:
            raise DecompositionError(f"{self.node.name} has fewer axes in a batch of one: let squeeze() name its axis")
        return tuple(
            sizes[0] if len(set(sizes)) == 1 else self.tracer.create_proxy("call_method", "size", (self, at), {})
            for at, sizes in enumerate(zip(*shapes, strict=True))
        )

    def size(self, dim: int | None = None) -> Any:
        """Return all sizes of a tensor, or that of one axis."""
        return self.shape if dim is None else self.shape[dim]

    def __getattr__(self, name: str) -> Any:
        first, *others = (getattr(value, name) for value in self._known())
        if isinstance(first, Tensor) or (not callable(first) and any(first != other for other in others)):
            return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        if not callable(first) or name in _CONSTANT_METHODS:
            return first
        return lambda *args, **kwargs: self.tracer.create_proxy("call_method", name, (self, *args), kwargs)

    def __iter__(self) -> Iterator[Any]:
        return (operator.getitem(self, at) for at in range(len(self)))  # pyright: ignore[reportCallIssue, reportArgumentType]

    def __len__(self) -> int:
        lengths = {len(value) for value in self._known()}
        if len(lengths) != 1:
            raise DecompositionError(f"forward() takes the length of {self.node.name}, which is the batch size")
        return lengths.pop()

    def __bool__(self) -> bool:
        return bool(self._constant("a condition"))

    def __index__(self) -> int:
        return operator.index(self._constant("an index"))

    def __int__(self) -> int:
        return int(self._constant("an integer"))

    def __float__(self) -> float:
        return float(self._constant("a number"))


class ShapeTracer(fx.Tracer):
    """Stops at layers of torch.nn and at `wholes`; follows every other module and function down to operations of torch."""

    proxy_buffer_attributes = True

    def __init__(self, example: Tensor, batches: Sequence[int], wholes: Sequence[nn.Module], owners_whole: bool) -> None:
        super().__init__()
        self.constants: dict[str, Tensor] = {}
        self._fakes = FakeTensorMode(allow_non_fake_inputs=True)
        one = self._fakes.from_tensor(example.detach()[:1])
        self._inputs = tuple(one.new_empty((n, *example.shape[1:])) for n in batches)
        self._batches = tuple(batches)
        self._wholes = {id(module) for module in wholes}
        self._owners_whole = owners_whole
        self._evaluating = False
        self._grad = torch.is_grad_enabled()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if id(m) in self._wholes or isinstance(m, (Mode, *WHOLE_LAYERS)):
            return True
        weighty_children = any(next(child.parameters(), None) is not None for child in m.children())
        if type(m).__module__.startswith("torch.nn.") and not isinstance(m, nn.Sequential):
            return not weighty_children
        weightless = not any(True for _ in (*m.children(), *m.parameters(), *m.buffers()))
        if weightless and "training" in type(m).forward.__code__.co_names:
            return True  # stochastic depth and its like: another computation in training
        owner = any(True for _ in m.parameters(recurse=False)) or any(True for _ in m.buffers(recurse=False))
        return self._owners_whole and owner and not weighty_children

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        # One input; every other argument keeps the default that Python gives it.
        return root_fn, [self.root, self.create_proxy("placeholder", "inputs", (), {})]

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        made_in_forward = all(m is not known for known in self.root.modules())
        if self._evaluating or made_in_forward:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._evaluating else super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> _Value:
        return _Value(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        if kind == "call_function" and target is torch._assert:  # pyright: ignore[reportPrivateUsage]
            return None  # it held on shapes that are constants, or bool() has refused
        if kind == "call_function" and _foreign(target):
            return target(*args, **kwargs)  # a function that its library marked as a leaf: go into it
        value = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        value.node.meta["values"] = self._evaluate_all(value.node)
        stopped = self._grad and not torch.is_grad_enabled()  # in forward(), under no_grad: no gradient flows back
        floating = isinstance(known := shaped(value.node), Tensor) and known.is_floating_point()
        return value.detach() if stopped and floating and target != "detach" else value

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter):
            name = next((name for name, value in self.constants.items() if value is a), f"pfedhr_constant{len(self.constants)}")
            self.constants[name] = a
            return self.create_node("get_attr", name, (), {})
        if isinstance(a, torch.Size):
            a = tuple(a)
        return super().create_arg(a)

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> fx.Node:
        node = super().create_node(kind, target, args, kwargs, *rest, **more)
        if kind == "get_attr":
            node.meta["values"] = (self._fakes.from_tensor(self._fetch(target).detach()),) * len(self._batches)
        return node

    def _fetch(self, name: str) -> Tensor:
        if name in self.constants:
            return self.constants[name]
        with self._unfollowed():
            return operator.attrgetter(name)(self.root)

    @contextmanager
    def _unfollowed(self) -> Generator[None]:
        """Let modules be called, and weights be read, without putting that into the graph."""
        before, self._evaluating = self._evaluating, True
        try:
            yield
        finally:
            self._evaluating = before

    def _evaluate_all(self, node: fx.Node) -> tuple[Any, ...]:
        """Return the value of `node` at every batch size, in their order."""
        if node.op == "call_module" and id(self.root.get_submodule(str(node.target))) in self._wholes:
            first, second = self._evaluate(node, 0), self._evaluate(node, 1)
            return first, second, extrapolated(first, second, self._batches)  # numbers flow in it: 64 would take long
        first = self._evaluate(node, 0)
        return first, *(self._evaluate_again(node, at, first) for at in range(1, len(self._batches)))

    def _evaluate_again(self, node: fx.Node, at: int, first: Any) -> Any:
        try:
            return self._evaluate(node, at)
        except Exception as error:
            if self._batches[at] in (1, LARGEST_BATCH):
                return first  # a twin raises there as well; decompose and whoever receives it run it, and tell
            what = f"{type(error).__name__}: {error}"
            raise DecompositionError(f"forward() cannot run on a batch of {self._batches[at]}: {what}") from error

    def _evaluate(self, node: fx.Node, at: int) -> Any:
        """Return the value of `node` at one batch size, computed on shapes only."""
        if node.op == "placeholder":
            return self._inputs[at]
        if node.op == "get_attr":
            return node.meta["values"][at]
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda other: other.meta["values"][at])
        with self._unfollowed():
            if node.op == "call_module" and id(layer := self.root.get_submodule(str(node.target))) in self._wholes:
                return self._run_whole(layer, args, kwargs)
        with self._unfollowed(), self._fakes:
            if node.op == "call_module":
                return run_layer(self.root.get_submodule(str(node.target)), args, kwargs, again=at > 0)
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            return cast(Callable[..., Any], node.target)(*args, **kwargs)

    def _run_whole(self, layer: nn.Module, args: Any, kwargs: Any) -> Any:
        """Return the shapes that `layer` gives, by running it on ones: it may look at numbers."""
        real = tree_map_only(
            Tensor, lambda value: torch.ones(value.shape, dtype=value.dtype, device=value.device), (args, kwargs)
        )
        with torch.no_grad():
            return tree_map_only(Tensor, self._fakes.from_tensor, layer(*real[0], **real[1]))


_CONSTANT_METHODS = ("dim", "ndimension", "is_floating_point", "is_complex", "element_size", "get_device", "is_contiguous")
"""Methods whose answer does not depend on the numbers in a tensor."""


def _foreign(function: Callable[..., Any]) -> bool:
    """Return whether `function` is written in Python outside torch."""
    home = getattr(function, "__module__", None) or ""
    return hasattr(function, "__code__") and not home.startswith(("torch.", "torch_")) and home != "torch"
