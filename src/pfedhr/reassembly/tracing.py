"""A network as a graph of operations (torch.fx) that computes the same in training and in evaluation."""

from __future__ import annotations

import operator
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jaxtyping
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only

from pfedhr.reassembly.batch_sizes import sizes_may_be_values
from pfedhr.reassembly.symbolic import EVALUATED_BATCHES, TRAINED_BATCHES, DecompositionError, ShapeTracer, shaped

REMEDIES = (
    "Remedies: keep forward() free of branches on values, give every argument after the first a default, return one "
    "tensor; or name the modules that shall be blocks with decompose(model, example, blocks=[...]); or take the network as one "
    "block with decompose(model, example, whole=True)"
)

MODE = "pfedhr_mode"
"""The name under which a graph asks whether it is in training."""


@dataclass(frozen=True)
class Trace:
    """A network's graph, its nodes' shapes in their `meta`, and the constant tensors that it reads, by its names for them."""

    graph: fx.Graph
    constants: dict[str, Tensor]


def trace(model: nn.Module, example: Tensor, wholes: Sequence[nn.Module] = ()) -> Trace:
    """Return the graph of `model` with every argument after the first left at its default.

    `example`: (n >= 1, ...); only its shape and type count. `wholes`: modules that are not followed inside. The model is left
    as it was. Raises DecompositionError if it cannot be traced, or differs between training and evaluation in more than flags
    and rates.
    """
    try:
        with _unchecked_types():
            try:
                found = _trace_modes(model, example, wholes, owners_whole=False)
            except Exception:
                # A module with weights of its own may compute what cannot be followed, yet run well as one operation.
                found = _trace_modes(model, example, wholes, owners_whole=True)
    except Exception as error:
        reason = str(error) if isinstance(error, DecompositionError) else f"{type(error).__name__}: {error}"
        raise DecompositionError(f"{type(model).__name__} cannot be traced: {reason}. {REMEDIES}") from error
    return found


@contextmanager
def _left_as_it_was(model: nn.Module) -> Generator[None]:
    """Undo what a forward() without numbers leaves in the model: above all caches, which would keep values of the graph."""
    attributes = [(vars(module), dict(vars(module))) for module in model.modules()]
    held = [value for _, before in attributes for value in before.values() if type(value) in (dict, list, set)]
    contents = [(value, value.copy()) for value in held]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for now, before in attributes:
            now.clear()
            now.update(before)
        for value, before in contents:
            value.clear()
            value.extend(before) if isinstance(value, list) else value.update(before)
        for buffer, value in buffers:  # a batch norm counts batches even where no numbers flow
            if not torch.equal(buffer, value):
                buffer.copy_(value)


@contextmanager
def _unchecked_types() -> Generator[None]:
    """Let a forward() be traced whose types are checked at run time: the values of a graph are no tensors."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@contextmanager
def _own_derivatives_refused() -> Generator[None]:
    """Refuse an autograd.Function that values of the graph come to: followed inside, it would lose its backward()."""
    original = vars(torch.autograd.Function)["apply"]

    def apply(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        found: list[fx.Proxy] = []
        tree_map_only(fx.Proxy, found.append, (args, kwargs))
        if found and not cls.__module__.startswith("torch."):  # torch's own give the derivative of what they compute
            raise DecompositionError(
                f"{cls.__qualname__} is an autograd.Function, whose backward() cannot be followed: call it in a layer of its "
                f"own that every node allows by pfedhr.register(...)"
            )
        return original.__get__(None, cls)(*args, **kwargs)

    torch.autograd.Function.apply = classmethod(apply)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        torch.autograd.Function.apply = original


def _trace_modes(model: nn.Module, example: Tensor, wholes: Sequence[nn.Module], owners_whole: bool) -> Trace:
    traced: list[Trace] = []
    for training in (True, False):
        tracer = ShapeTracer(example, TRAINED_BATCHES if training else EVALUATED_BATCHES, wholes, owners_whole)
        with _left_as_it_was(model), sizes_may_be_values(tracer), _own_derivatives_refused():
            # By way of training: a cache of what the weights give, filled in evaluation before, would pass for a constant.
            graph = tracer.trace(model.train().train(training))
        for node in graph.nodes:  # torch.fx marks what a followed leaf function gave, as if it had been a leaf
            node.meta.pop("is_wrapped", None)
        traced.append(Trace(graph, tracer.constants))
    for each in traced:
        _drop_unused_sizes(each.graph)
    _merge(traced[0].graph, traced[1].graph)
    _take_sizes_where_used(traced[1].graph)
    return traced[1]


def _drop_unused_sizes(graph: fx.Graph) -> None:
    """Take out what nobody uses, tensors excepted: they may have been changed in place."""
    for node in reversed(list(graph.nodes)):
        computed = node.op in ("call_function", "call_method") and not isinstance(shaped(node), Tensor)
        computed = computed and node.target is not operator.setitem
        if (computed or node.op == "get_attr") and not node.users:
            graph.erase_node(node)


def _merge(trained: fx.Graph, evaluated: fx.Graph) -> None:
    """Make `evaluated` the graph of both modes, asking for the mode where they differ in a flag, a rate or a count."""
    partner: dict[fx.Node, fx.Node] = {}
    ahead = iter(list(evaluated.nodes))
    other = next(ahead)
    mode: fx.Node | None = None

    def ask() -> fx.Node:
        nonlocal mode
        if mode is None:
            with evaluated.inserting_after(next(iter(evaluated.nodes))):
                mode = evaluated.call_module(MODE)
                mode.meta["values"] = (False,) * len(EVALUATED_BATCHES)
        return mode

    def merged(mine: Any, theirs: Any) -> Any:
        """Return the argument of both modes."""
        if isinstance(mine, fx.Node):
            if partner.get(mine) is not theirs:
                raise DecompositionError(f"it computes something else in training than in evaluation, first at {mine}")
            return theirs
        if type(mine) is type(theirs) and isinstance(mine, tuple | list) and len(mine) == len(theirs):
            return type(theirs)(merged(a, b) for a, b in zip(mine, theirs, strict=True))
        if isinstance(mine, slice) and isinstance(theirs, slice):
            return slice(*merged((mine.start, mine.stop, mine.step), (theirs.start, theirs.stop, theirs.step)))
        if isinstance(mine, dict) and isinstance(theirs, dict) and mine.keys() == theirs.keys():
            return {name: merged(value, theirs[name]) for name, value in mine.items()}
        if mine is True and theirs is False:
            return ask()
        if type(mine) is type(theirs) and mine == theirs:
            return theirs
        if isinstance(mine, float) and theirs == 0.0:
            with evaluated.inserting_before(other):
                rate = evaluated.call_function(operator.mul, (ask(), mine))
                rate.meta["values"] = (0.0,) * len(EVALUATED_BATCHES)
            return rate
        raise DecompositionError(f"it uses {mine} in training where it uses {theirs} in evaluation, at {other}")

    for node in trained.nodes:
        if _counts_batches(node):
            with evaluated.inserting_before(other):
                counter = evaluated.get_attr(str(node.args[0].target))
                counter.meta["values"] = node.args[0].meta["values"]
                count = evaluated.call_method("add_", (counter, ask()))
                count.meta["values"] = node.meta["values"]
            partner[node.args[0]] = counter
            continue
        if node.op == "get_attr" and all(map(_counts_batches, node.users)):
            continue
        if (node.op, node.target) != (other.op, other.target):
            raise DecompositionError(
                f"it computes something else in training than in evaluation, first at {node} against {other}"
            )
        other.args, other.kwargs = merged(node.args, other.args), merged(node.kwargs, other.kwargs)
        partner[node] = other
        other = next(ahead, other)


def _counts_batches(node: fx.Node) -> bool:
    """Return whether `node` is how a batch norm counts batches: num_batches_tracked.add_(1)."""
    if node.op != "call_method" or node.target != "add_" or node.args[1:] != (1,) or node.users:
        return False
    counter = node.args[0]
    return isinstance(counter, fx.Node) and counter.op == "get_attr" and str(counter.target).endswith("num_batches_tracked")


def _take_sizes_where_used(graph: fx.Graph) -> None:
    """Let every node that needs the batch size ask it of a tensor that it also needs, or else of the one made last.

    A size taken once and used far behind would be a second value that crosses every place between.
    """
    last: fx.Node | None = None
    for node in list(graph.nodes):
        for size in [one for one in node.all_input_nodes if one.op == "call_method" and one.target == "size"]:
            near = next((one for one in node.all_input_nodes if one is not size and _batch_first(one)), last)
            if size.meta["values"] == EVALUATED_BATCHES and near is not None and near is not size.args[0]:
                with graph.inserting_before(node):
                    taken = graph.call_method("size", (near, 0))
                    taken.meta["values"] = EVALUATED_BATCHES
                node.replace_input_with(size, taken)
        last = node if _batch_first(node) else last
    _drop_unused_sizes(graph)


def _batch_first(node: fx.Node) -> bool:
    values = node.meta.get("values", (None,) * len(EVALUATED_BATCHES))  # the output has none
    pairs = zip(values, EVALUATED_BATCHES, strict=True)
    return all(isinstance(one, Tensor) and one.dim() > 0 and one.shape[0] == n for one, n in pairs)
