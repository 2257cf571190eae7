"""A network as a graph of operations (torch.fx), and the places where exactly one tensor flows."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from pfedhr.errors import PfedhrError

REMEDIES = (
    "Remedies: keep forward() free of branches on values, give every argument after the first a default, return one "
    "tensor; or take the network as one block with decompose(model, example, whole=True)"
)


class DecompositionError(PfedhrError):
    """A network that cannot be cut; the message names the place and the remedies."""


@dataclass(frozen=True)
class Segment:
    """A run of operations between two neighbouring cuts: `nodes` in order, the value that enters and the one that leaves."""

    nodes: tuple[fx.Node, ...]
    entering: fx.Node
    leaving: fx.Node


class _Tracer(fx.Tracer):
    """Stops at layers: modules of torch.nn, and modules that own tensors while none of their children do."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = any(True for _ in m.parameters(recurse=False)) or any(True for _ in m.buffers(recurse=False))
        below = any(next(child.parameters(), None) is not None for child in m.children())
        return super().is_leaf_module(m, module_qualified_name) or (own and not below)


def trace(model: nn.Module) -> fx.Graph:
    """Return the graph of `model` with every argument after the first bound to its default.

    Raises DecompositionError if the network cannot be traced, returns anything but one tensor, or does something else
    in training than in evaluation beyond what its layers do themselves.
    """
    optional: dict[str, Any] = {}
    for parameter in list(inspect.signature(model.forward).parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.default is parameter.empty:
            raise DecompositionError(
                f"{type(model).__name__}.forward needs {parameter.name!r} besides its first input. {REMEDIES}"
            )
        optional[parameter.name] = parameter.default
    modes = [(module, module.training) for module in model.modules()]
    try:
        trained = _Tracer().trace(model.train(), optional)
        evaluated = _Tracer().trace(model.eval(), optional)
    except Exception as error:
        raise DecompositionError(f"{type(model).__name__} cannot be traced: {error}. {REMEDIES}") from error
    finally:
        for module, training in modes:
            module.training = training
    training, evaluation = ([node.format_node() for node in graph.nodes] for graph in (trained, evaluated))
    if training != evaluation:
        # A functional dropout bakes `training=True` or False into the graph, and so would go on dropping in evaluation.
        node = next((str(a) for a, b in zip(training, evaluation, strict=False) if a != b), "its length")
        raise DecompositionError(
            f"{type(model).__name__} computes something else in training than in evaluation, first at {node}: use the "
            f"module (nn.Dropout, say) in place of the function. {REMEDIES}"
        )
    _drop_defaults(evaluated)
    return evaluated


def _drop_defaults(graph: fx.Graph) -> None:
    """Take the bound arguments out of `graph`, with the checks that tracing adds that they still have their default."""
    for argument in [node for node in graph.nodes if node.op == "placeholder"][1:]:
        unneeded = [argument]
        for node in unneeded:
            unneeded += [user for user in node.users if user not in unneeded]
        for node in reversed(unneeded):
            graph.erase_node(node)


def record(model: nn.Module, graph: fx.Graph, example: Tensor) -> Mapping[fx.Node, Any]:
    """Return the value of every node of `graph` on `example`."""
    interpreter = fx.Interpreter(model, garbage_collect_values=False, graph=graph)
    interpreter.run(example)
    return interpreter.env


def segments(model: nn.Module, graph: fx.Graph, values: Mapping[fx.Node, Any]) -> list[Segment]:
    """Return the finest cutting of `graph`: a cut stands wherever exactly one live value crosses, and it is a tensor.

    Residual, dense, inception and attention blocks come out whole, for inside them more than one value is live.
    """
    source = next(node for node in graph.nodes if node.op == "placeholder")
    result = next(node for node in graph.nodes if node.op == "output").args[0]
    if not isinstance(result, fx.Node):
        raise DecompositionError(f"{type(model).__name__} returns {type(result).__name__}, not one tensor. {REMEDIES}")
    steps = [node for node in graph.nodes if node.op in ("call_module", "call_function", "call_method")]
    place = {source: -1} | {node: at for at, node in enumerate(steps)}
    last_use = {node: max((place[user] for user in node.users if user in place), default=-1) for node in place}
    last_use[result] = len(steps)  # the network's output is used by its caller

    found: list[Segment] = []
    run: list[fx.Node] = []
    entering = source
    live = {source}
    for at, node in enumerate(steps):
        run.append(node)
        live = {value for value in live | {node} if last_use[value] > at}
        if len(live) == 1 and isinstance(values[crossing := next(iter(live))], Tensor):
            found.append(Segment(tuple(run), entering, crossing))
            entering, run = crossing, []
    if not found:
        raise DecompositionError(f"{type(model).__name__} has no place where a single tensor flows. {REMEDIES}")
    return found


def extract(model: nn.Module, nodes: Sequence[fx.Node], entering: fx.Node, leaving: fx.Node) -> fx.GraphModule:
    """Return a module that computes `leaving` from `entering` by `nodes`, sharing the model's layers under their own names."""
    graph = fx.Graph()
    copies = {entering: graph.placeholder("entering")}

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:  # only a weight is fetched from outside the run
            copies[node] = graph.node_copy(node)
        return copies[node]

    for node in nodes:
        copies[node] = graph.node_copy(node, copied)
    graph.output(copies[leaving])
    return fx.GraphModule(model, graph)


def weights(model: nn.Module, nodes: Sequence[fx.Node]) -> dict[str, tuple[nn.Module | None, Tensor]]:
    """Return the parameters that `nodes` use, by their names in the model, each with the layer that owns it if a layer does."""
    found: dict[str, tuple[nn.Module | None, Tensor]] = {}
    for node in nodes:
        if node.op == "call_module":
            layer = model.get_submodule(str(node.target))
            found |= {f"{node.target}.{name}": (layer, value) for name, value in layer.named_parameters()}
        for attribute in (argument for argument in node.all_input_nodes if argument.op == "get_attr"):
            owner, _, name = str(attribute.target).rpartition(".")
            value = getattr(model.get_submodule(owner), name)
            if isinstance(value, nn.Parameter):
                found[str(attribute.target)] = (None, value)
    return found


def is_flatten(entering: Any, leaving: Any) -> bool:
    """Return whether `leaving` is `entering` (batch, ...) with all axes after the first laid out as one, and nothing else."""
    return (
        isinstance(entering, Tensor)
        and isinstance(leaving, Tensor)
        and entering.dim() > 2
        and leaving.dim() == 2
        and leaving.shape[0] == entering.shape[0]
        and torch.equal(leaving, entering.flatten(1))
    )
