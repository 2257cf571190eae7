"""A network as a graph of operations (torch.fx) that computes the same in training and in evaluation."""

from __future__ import annotations

import operator
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jaxtyping
import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from pfedhr.errors import raised_through
from pfedhr.reassembly.batch_sizes import sizes_may_be_values
from pfedhr.reassembly.modes import ModesDiffer, merge_modes
from pfedhr.reassembly.symbolic import EVALUATED_BATCHES, TRAINED_BATCHES, DecompositionError, ShapeTracer, shaped
from pfedhr.reassembly.writing import write_where_seen

BLOCKS_BY_HAND = (
    "; or name the modules that shall be blocks with decompose(model, example, blocks=[...]); or take the network as one block "
    "with decompose(model, example, whole=True)"
)
"""The remedies of who calls `decompose`, which a run cannot follow."""
REMEDIES = (
    "Remedies: keep forward() free of branches on values, give every argument after the first a default, return one tensor"
    + BLOCKS_BY_HAND
)
_ALIKE = (
    "Remedies: call the same layers in training and in evaluation, for dropout and batch norms heed the mode themselves, or "
    "give functions training=self.training; for padding masks make torch's TransformerEncoder with enable_nested_tensor=False"
    + BLOCKS_BY_HAND
)
_PADDED = "Remedies: give recurrent layers the padded batch, for packed sequences cannot be followed" + BLOCKS_BY_HAND
_UNASSERTED = (
    "Remedies: leave out assertions on the type of what flows, which is no Tensor while forward() is followed" + BLOCKS_BY_HAND
)
_ALONE = threading.RLock()
"""Held by the thread that traces: meanwhile functions of torch and of Python are replaced, and that for the whole process."""


@dataclass(frozen=True)
class Trace:
    """A network's graph, its nodes' shapes in their `meta`, and the constant tensors that it reads, by its names for them.

    `written`: the names of the tensors that it reads by itself, in no layer, and may change.
    """

    graph: fx.Graph
    constants: dict[str, Tensor]
    written: frozenset[str]


def trace(model: nn.Module, example: Tensor, wholes: Sequence[nn.Module] = ()) -> Trace:
    """Return the graph of `model` with every argument after the first left at its default.

    `example`: (n >= 1, ...); only its shape and type count. `wholes`: modules that are not followed inside. The model is left
    as it was; threads take turns. Raises DecompositionError if it cannot be traced, or differs between training and evaluation
    in more than flags and rates.
    """
    try:
        with _ALONE, _unchecked_types():
            try:
                found = _trace_modes(model, example, wholes, owners_whole=False)
            except Exception:
                # A module with weights of its own may compute what cannot be followed, yet run well as one operation.
                found = _trace_modes(model, example, wholes, owners_whole=True)
    except Exception as error:
        _check_followable(model)
        words = " ".join(str(error).split()).rstrip(".")
        reason = words if isinstance(error, DecompositionError) else f"{type(error).__name__}{words and ': ' + words}"
        raise DecompositionError(f"{type(model).__name__} cannot be traced: {reason}. {_remedies(error)}") from error
    return found


def _remedies(error: Exception) -> str:
    """Return what may be done where a trace ended in `error`."""
    if isinstance(error, ModesDiffer):
        return _ALIKE
    through = raised_through(error)
    if nn.utils.rnn.__name__ in through:
        return _PADDED
    own = isinstance(error, AssertionError) and through[-1].partition(".")[0] != "torch"
    return _UNASSERTED if own else REMEDIES


def _check_followable(model: nn.Module) -> None:
    """Raise DecompositionError if a network that could not be followed holds what is no Python any more."""
    for name, module in model.named_modules():
        compiled = hasattr(module, "_orig_mod")  # as what torch.compile gives, whose class would take long to import
        if compiled or isinstance(module, torch.jit.ScriptModule):
            what = "torch.compile" if compiled else "torch.jit"
            raise DecompositionError(
                f"{name or 'the network'} was made by {what}, and its forward() cannot be followed. Remedy: give what it was "
                f"made of, which may be compiled where it runs"
            )


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
        traced.append(Trace(graph, tracer.constants, _written(graph)))
    for each in traced:
        _drop_unused_sizes(each.graph)
    merge_modes(traced[0].graph, traced[1].graph)
    write_where_seen(traced[1].graph)
    _take_sizes_where_used(traced[1].graph)
    return replace(traced[1], written=traced[0].written | traced[1].written)


def _written(graph: fx.Graph) -> frozenset[str]:
    """Return the names of the tensors that a graph reads by itself and changes: views of a tensor count its changes, too."""
    read = [node for node in graph.nodes if node.op == "get_attr"]
    norms = [node for node in graph.nodes if node.target in (functional.batch_norm, functional.instance_norm)]
    # That norms change the statistics that they are given, shapes do not show.
    changed = [node for node in read if shaped(node)._version or any(norm in node.users for norm in norms)]
    return frozenset(str(node.target) for node in changed)


def _drop_unused_sizes(graph: fx.Graph) -> None:
    """Take out what nobody uses, tensors excepted: they may have been changed in place."""
    for node in reversed(list(graph.nodes)):
        computed = node.op in ("call_function", "call_method") and not isinstance(shaped(node), Tensor)
        computed = computed and node.target is not operator.setitem
        if (computed or node.op == "get_attr") and not node.users:
            graph.erase_node(node)


def _take_sizes_where_used(graph: fx.Graph) -> None:
    """Let every node that needs the batch size ask it of a tensor that it also needs, or else of the one made last.

    A size taken once and used far behind would be a second value that crosses every place between.
    """
    last: fx.Node | None = None
    for node in list(graph.nodes):
        for size in [one for one in node.all_input_nodes if one.op == "call_method" and one.target == "size"]:
            near = next((one for one in node.all_input_nodes if one is not size and batch_first(one)), last)
            if size.meta["values"] == EVALUATED_BATCHES and near is not None and near is not size.args[0]:
                with graph.inserting_before(node):
                    taken = graph.call_method("size", (near, 0))
                    taken.meta["values"] = EVALUATED_BATCHES
                node.replace_input_with(size, taken)
        last = node if node.op != "output" and batch_first(node) else last
    _drop_unused_sizes(graph)


def batch_first(node: fx.Node) -> bool:
    """Return whether `node`, of a graph in evaluation, is a tensor whose first axis is the batch; no other may depend on it.

    Elsewhere a block would mix what belongs to different inputs: (layers, batch, features) of a recurrent layer,
    (batch * length, features) of a reshape.
    """
    first, *others = node.meta["values"]
    if not isinstance(first, Tensor) or misfit(node):
        return False
    return any(other.shape != first.shape for other in others)  # which those of a weight are not


def misfit(node: fx.Node) -> tuple[int, tuple[int, ...]] | None:
    """Return a batch size and the shape of the tensor `node` there, if its first axis is not the batch, or others depend on it.

    At a size at which forward() raised, all shapes are those of the first; in a batch of one squeeze() may have lost the axis:
    both run as they always do, and whoever runs them is told.
    """
    first = tuple(node.meta["values"][0].shape)
    for value, n in zip(node.meta["values"], EVALUATED_BATCHES, strict=True):
        shape = tuple(value.shape)
        allowed = {(n, *first[1:])} if value is node.meta["values"][0] else {(n, *first[1:]), first}
        if shape not in allowed and not (n == 1 and shape == first[1:]):
            return n, shape
    return None
