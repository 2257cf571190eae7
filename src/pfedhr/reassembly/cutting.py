"""Cutting a network's graph at the places where exactly one tensor flows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from pfedhr.reassembly.modes import MODE
from pfedhr.reassembly.operations import MATRIX_FUNCTIONS
from pfedhr.reassembly.symbolic import DecompositionError, Mode, shaped
from pfedhr.reassembly.tracing import REMEDIES, Trace, batch_first, misfit
from pfedhr.reassembly.writing import WRITING, held_memory

_VIEWS = ("view", "reshape", "flatten", "size", "contiguous")


@dataclass(frozen=True)
class Segment:
    """A run of operations between two neighbouring cuts: `nodes` in order, the value that enters and the one that leaves."""

    nodes: tuple[fx.Node, ...]
    entering: fx.Node
    leaving: fx.Node


def segments(name: str, trace: Trace) -> list[Segment]:
    """Return the finest cutting of the network called `name`: a cut stands where one live value crosses, of the batch.

    Residual, dense, inception and attention blocks come out whole, for inside them more than one value is live.
    """
    graph = trace.graph
    source = next(node for node in graph.nodes if node.op == "placeholder")
    result = next(node for node in graph.nodes if node.op == "output").args[0]
    if not isinstance(result, fx.Node) or not isinstance(shaped(result), Tensor):
        got = type(shaped(result) if isinstance(result, fx.Node) else result).__name__
        raise DecompositionError(f"{name} returns {got}, not one tensor. {REMEDIES}")
    if (wrong := misfit(result)) is not None:
        raise DecompositionError(
            f"{name} gives {wrong[1]} for a batch of {wrong[0]}: let forward() return the batch as the first axis, and no "
            f"other that depends on it"
        )
    steps = [node for node in graph.nodes if node.op in ("call_module", "call_function", "call_method") and node.target != MODE]
    place = {source: -1} | {node: at for at, node in enumerate(steps)}
    last_use = {node: max((place[user] for user in node.users if user in place), default=-1) for node in place}
    last_use[result] = len(steps)  # the network's output is used by its caller
    # No block may write into what another gave: a stitch between them would miss it on its way back.
    last_writing = {held_memory(node): at for at, node in enumerate(steps) if node.target in WRITING}

    found: list[Segment] = []
    run: list[fx.Node] = []
    entering = source
    live = {source}
    for at, node in enumerate(steps):
        run.append(node)
        live = {value for value in live | {node} if last_use[value] > at}
        if len(live) != 1:
            continue
        crossing = next(iter(live))
        if batch_first(crossing) and last_writing.get(held_memory(crossing), at) <= at:
            found.append(Segment(tuple(run), entering, crossing))
            entering, run = crossing, []
    if not found:
        raise DecompositionError(f"{name} has no place where a single tensor flows. {REMEDIES}")
    return found


def extract(
    model: nn.Module,
    trace: Trace,
    nodes: Sequence[fx.Node],
    entering: fx.Node,
    leaving: fx.Node,
    elsewhere: Collection[str],
) -> fx.GraphModule:
    """Return a module that computes `leaving` from `entering` by `nodes`, sharing the model's layers under their own names.

    Buffers that it only reads may be in the state_dict of another, `elsewhere`, and are not in its own.
    """
    graph = fx.Graph()
    copies = {entering: graph.placeholder("entering")}

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:  # only a weight or the mode is fetched from outside the run
            copies[node] = graph.node_copy(node)
        return copies[node]

    for node in nodes:
        copies[node] = graph.node_copy(node, copied)
    graph.output(copies[leaving])
    own = model.state_dict(keep_vars=True).keys() - set(elsewhere)
    targets = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}
    parts = {name: Mode() if name == MODE else _tensor(model, trace, name) for name in targets}
    module = fx.GraphModule(parts, graph)
    if MODE in targets:
        module.get_submodule(MODE).training = model.training
    for name in module.state_dict().keys() - own:  # constants of forward(), and buffers that are not saved
        path, _, buffer = name.rpartition(".")
        module.get_submodule(path)._non_persistent_buffers_set.add(buffer)  # pyright: ignore[reportPrivateUsage]
    return module


def _find(model: nn.Module, name: str) -> nn.Module | Tensor | None:
    found = model
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def parameters(model: nn.Module, nodes: Sequence[fx.Node]) -> dict[str, nn.Parameter]:
    """Return the parameters that `nodes` use, by their names in the model."""
    found: dict[str, nn.Parameter] = {}
    for node in nodes:
        if node.op == "call_module":
            layer = model.get_submodule(str(node.target))
            found |= {f"{node.target}.{name}": value for name, value in layer.named_parameters()}
        for attribute in (argument for argument in node.all_input_nodes if argument.op == "get_attr"):
            value = _find(model, str(attribute.target))
            if isinstance(value, nn.Parameter):
                found[str(attribute.target)] = value
    return found


def changing(model: nn.Module, trace: Trace) -> set[int]:
    """Return the identities of the tensors that may change: parameters, buffers of layers, and those that forward() changes."""
    buffers = [value for layer in _layers(model, trace.graph.nodes) for value in layer.buffers()]
    return set(map(id, (*model.parameters(), *buffers, *(_tensor(model, trace, name) for name in trace.written))))


def used(model: nn.Module, trace: Trace, nodes: Sequence[fx.Node]) -> set[int]:
    """Return the identities of the tensors that `nodes` use."""
    read = {str(one.target) for node in nodes for one in node.all_input_nodes if one.op == "get_attr"}
    held = [value for layer in _layers(model, nodes) for value in (*layer.parameters(), *layer.buffers())]
    return set(map(id, (*held, *(_tensor(model, trace, name) for name in read))))


def _layers(model: nn.Module, nodes: Iterable[fx.Node]) -> list[nn.Module]:
    """Return the layers that `nodes` call."""
    return [model.get_submodule(str(one.target)) for one in nodes if one.op == "call_module" and one.target != MODE]


def _tensor(model: nn.Module, trace: Trace, name: str) -> nn.Module | Tensor | None:
    return trace.constants.get(name, _find(model, name))


def has_matrix(model: nn.Module, nodes: Sequence[fx.Node]) -> bool:
    """Return whether `nodes` apply a weight of rank two or more: a matrix or kernel, not a position or class token added on."""
    for node in nodes:
        if node.op == "call_module" and any(value.dim() >= 2 for value in parameters(model, [node]).values()):
            return True
        if (
            node.op != "call_module"
            and node.target in MATRIX_FUNCTIONS
            and any(value.dim() >= 2 for value in parameters(model, [node, *node.all_input_nodes]).values())
        ):
            return True
    return False


def is_flatten(model: nn.Module, segment: Segment) -> bool:
    """Return whether a segment lays all axes of (batch, ...) after the first out as one, and does nothing else."""
    entering, leaving = shaped(segment.entering), shaped(segment.leaving)
    if not (entering.dim() > 2 and tuple(leaving.shape) == tuple(entering.flatten(1).shape)):
        return False
    return all(
        isinstance(model.get_submodule(str(node.target)), nn.Flatten | nn.Identity)
        if node.op == "call_module"
        else node.target is torch.flatten or node.target is torch.reshape or node.target in _VIEWS
        for node in segment.nodes
    )


def check_used(model: nn.Module, names: Iterable[str]) -> None:
    """Raise DecompositionError, saying what to remove, if forward(), which uses `names`, does not use all of the state_dict.

    A tensor of several names is used under any of them.
    """
    state = model.state_dict(keep_vars=True)
    held = dict(model.named_buffers(remove_duplicate=False)) | state  # some buffers are not saved
    used = {id(held[name]) for name in names}
    if missing := [name for name, value in state.items() if id(value) not in used]:
        unused = dict.fromkeys(_largest_unused(name, missing, state) for name in missing)
        raise DecompositionError(
            f"{type(model).__name__} never uses {some(missing)}: each entry of a state_dict must be in one block. Remedy: "
            f"remove the unused {some(list(unused))} from the network"
        )


def _largest_unused(name: str, missing: Collection[str], state: Collection[str]) -> str:
    """Return "layer m" for the largest module around the weight `name` of which nothing is used, or else that weight."""
    parts = name.split(".")
    for path in (".".join(parts[:end]) for end in range(1, len(parts))):
        if all(other in missing for other in state if other.startswith(f"{path}.")):
            return f"layer {path}"
    return f"weight {name}"


def some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
