"""Taking a network apart into blocks, each with weights of its own, that give the network again when run in order."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from pfedhr.inference import inference, unchanged
from pfedhr.reassembly.cutting import Segment, changing, check_used, extract, has_matrix, is_flatten, segments, used
from pfedhr.reassembly.operations import operation, strongest
from pfedhr.reassembly.signals import signals
from pfedhr.reassembly.symbolic import DecompositionError, shaped
from pfedhr.reassembly.tracing import REMEDIES, Trace, trace
from pfedhr.reassembly.vocabulary import registered_in
from pfedhr.seeding import generator

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """One layer or inseparable group of layers of a network.

    `names`: its keys in the network's own state_dict; `op`: one of operations.OPERATIONS; `in_shape`, `out_shape`: without the
    batch axis; `module`: computes the block and shares the network's tensors; `integers`: whether it takes whole numbers, as an
    embedding does; `takes_signal`, `gives_signal`: whether the two axes of a shape are (channels, length), not (tokens, width).
    """

    names: tuple[str, ...]
    op: str
    in_shape: Shape
    out_shape: Shape
    module: nn.Module = field(repr=False, compare=False)
    integers: bool = False
    takes_signal: bool = False
    gives_signal: bool = False

    @property
    def parameters(self) -> int:
        """The number of values in its parameters, frozen or not."""
        return sum(value.numel() for value in self.module.parameters())

    @property
    def size(self) -> int:
        """The number of values that the block holds, trainable or not; a tensor of several names counts once."""
        return sum({id(value): value.numel() for value in self.module.state_dict(keep_vars=True).values()}.values())


def decompose(
    model: nn.Module, example: Tensor, *, blocks: Sequence[str] | None = None, whole: bool = False
) -> tuple[Block, ...]:
    """Cut `model` wherever exactly one tensor flows, so that each block owns a weight matrix or kernel.

    `example`: (n >= 1, ...), a batch of inputs, floats or integers. A normalisation, activation or pooling belongs to the block
    before it, a change of rank such as a mean over the map to the block after it; a flatten between two blocks belongs to
    neither and is what `run_chain` adds. Layers of registered classes stay whole. `blocks` names modules that shall each be a
    block of their own, with what lies between them; nothing inside them is looked at. `whole` gives the network as one block.
    The model is left as it was. Checked every time at two batch sizes: the blocks run in order give the model's output bit for
    bit; their names partition its state_dict, a tensor of several names under one of them, a buffer that several blocks read
    under the first. They run on noise, or on the example if the model cannot take noise (features with numbers of categories).

    Raises DecompositionError naming the place and the remedies.
    """
    if whole:
        with inference(model), unchanged(model):
            return (_whole(model, example),)
    named = [_named(model, name) for name in blocks or ()]
    found = trace(model, example, [*named, *registered_in(model)])
    cuts = segments(type(model).__name__, found)
    runs = _merge_shared(_join(cuts, model, named), model, found)
    known = signals(model, found.graph)
    result: list[Block] = []
    for run in runs:
        result.append(_block(model, found, run, known, {name for block in result for name in block.names}))
    with inference(model, *(block.module for block in result)), unchanged(model):
        _verify(model, result, example)
    return tuple(result)


def coarsen(blocks: Sequence[Block], most: int) -> tuple[Block, ...]:
    """Return `most` >= 1 blocks that compute the same, or all of fewer: neighbours joined, the largest as small as can be.

    For networks of very many layers: what grouping and the search for candidates cost grows with the number of blocks.
    """
    if most < 1:
        raise ValueError(f"most = {most}: choose 1 or more")
    sizes = [block.parameters for block in blocks]
    low, high = max(sizes), sum(sizes)
    while low < high:  # the least capacity with which filling from the left takes at most `most` parts
        middle = (low + high) // 2
        low, high = (low, middle) if len(_filled(sizes, middle, 1)) <= most else (middle + 1, high)
    count = min(most, len(blocks))
    return tuple(_joined(blocks[start:end]) for start, end in _filled(sizes, low, count))


def _filled(sizes: Sequence[int], capacity: int, parts: int) -> list[tuple[int, int]]:
    """Return the bounds of at least `parts` runs of at most `capacity`, filled from the left while enough are left over."""
    bounds: list[tuple[int, int]] = []
    start = held = 0
    for at, size in enumerate(sizes):
        needed = len(sizes) - at <= parts - 1 - len(bounds)  # each that is left begins a run
        if at > start and (needed or held + size > capacity):
            bounds.append((start, at))
            start, held = at, 0
        held += size
    return [*bounds, (start, len(sizes))]


class Chain(nn.Module):
    """Blocks in order as one module."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(block.module for block in blocks)
        self.vectors = [len(block.in_shape) == 1 for block in blocks]

    def forward(self, inputs: Tensor) -> Tensor:
        """Map what the first block takes to what the last gives."""
        for part, vector in zip(self.parts, self.vectors, strict=True):
            inputs = part(inputs.flatten(1) if vector and inputs.dim() > 2 else inputs)
        return inputs


def _joined(blocks: Sequence[Block]) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    names = tuple(name for block in blocks for name in block.names)
    op, first, last = strongest(block.op for block in blocks), blocks[0], blocks[-1]
    shapes = first.in_shape, last.out_shape
    return Block(names, op, *shapes, Chain(blocks), first.integers, first.takes_signal, last.gives_signal)


def _named(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        children = ", ".join(name for name, _ in model.named_children())
        raise DecompositionError(f"{type(model).__name__} has no module {name!r}: its children are {children}") from error


def _tried(model: nn.Module, example: Tensor) -> tuple[Tensor, Any]:
    """Return three inputs like those of `example` and what the model gives for them. Raises DecompositionError.

    Floats are noise, if the model can take it; integers are of the example, which names its vocabulary.
    """
    if example.is_floating_point():
        noise = torch.randn((3, *example.shape[1:]), generator=generator(0, "decompose")).to(example)
        with suppress(DecompositionError):
            return noise, _output(model, noise)
    rows = example[torch.arange(3) % len(example)].contiguous()
    return rows, _output(model, rows)


def _output(model: nn.Module, batch: Tensor) -> Any:
    try:
        return model(batch.clone())  # for it may change in place what it takes
    except Exception as error:  # whatever forward() makes of a size or of values that were not the example's
        raise DecompositionError(
            f"{type(model).__name__} cannot run on a batch of {len(batch)}: {type(error).__name__}: {error}. {REMEDIES}"
        ) from error


def run_chain(blocks: Sequence[Block], inputs: Tensor) -> Tensor:
    """Return what the blocks give in order on `inputs` (n, ...), flattening a map where the next block takes a vector."""
    for block in blocks:
        inputs = block.module(flatten_for(block, inputs))
    return inputs


def flatten_for(block: Block, inputs: Tensor) -> Tensor:
    """Return `inputs` (n, ...) as `block` takes them from its own predecessor."""
    return inputs.flatten(1) if len(block.in_shape) == 1 and inputs.dim() > 2 else inputs


def _join(found: Sequence[Segment], model: nn.Module, named: Sequence[nn.Module]) -> list[list[Segment]]:
    """Join segments so that each run holds one weight of rank two or more; a flatten between two runs is left out."""
    runs: list[list[Segment]] = []
    waiting: list[Segment] = []  # segments that join the next weight
    flattened: list[Segment] = []  # a flatten, left out if a weight follows
    for segment in found:
        if _begins_block(model, segment, named):
            runs.append([*waiting, segment])
            waiting, flattened = [], []
        elif not waiting and is_flatten(model, segment):
            flattened = [segment]
        elif flattened or waiting or not runs or shaped(segment.entering).dim() != shaped(segment.leaving).dim():
            waiting.append(segment)
        else:
            runs[-1].append(segment)
    if not runs:
        raise DecompositionError(f"{type(model).__name__} has no weight of rank two or more. {REMEDIES}")
    runs[-1] += flattened + waiting
    return runs


def _begins_block(model: nn.Module, segment: Segment, named: Sequence[nn.Module]) -> bool:
    if not named:
        return has_matrix(model, segment.nodes)
    called = [model.get_submodule(str(node.target)) for node in segment.nodes if node.op == "call_module"]
    return any(module is one for module in called for one in named)


def _merge_shared(runs: Sequence[list[Segment]], model: nn.Module, found: Trace) -> list[list[Segment]]:
    """Merge runs that use the same tensor, with all that lies between them, but for buffers that are only ever read."""
    together = changing(model, found)
    merged: list[list[Segment]] = []
    owned: list[set[int]] = []
    for run in runs:
        mine = together & used(model, found, [node for segment in run for node in segment.nodes])
        first = next((at for at, others in enumerate(owned) if others & mine), len(merged))
        merged[first:] = [[segment for part in [*merged[first:], run] for segment in part]]
        owned[first:] = [set().union(mine, *owned[first:])]
    return merged


def _block(
    model: nn.Module, found: Trace, run: Sequence[Segment], known: Collection[fx.Node], elsewhere: Collection[str]
) -> Block:
    entering, leaving = run[0].entering, run[-1].leaving
    nodes = [node for segment in run for node in segment.nodes]
    module = extract(model, found, nodes, entering, leaving, elsewhere)
    shapes = tuple(shaped(entering).shape[1:]), tuple(shaped(leaving).shape[1:])
    integers = not shaped(entering).is_floating_point()
    op = operation(model, nodes, shapes[1])
    return Block(tuple(module.state_dict()), op, *shapes, module, integers, entering in known, leaving in known)


def _whole(model: nn.Module, example: Tensor) -> Block:
    _, output = _tried(model, example)
    if not isinstance(output, Tensor):
        raise DecompositionError(f"{type(model).__name__} returns {type(output).__name__}, not one tensor. {REMEDIES}")
    shapes = tuple(example.shape[1:]), tuple(output.shape[1:])
    return Block(tuple(model.state_dict()), "other", *shapes, model, not example.is_floating_point())


def _verify(model: nn.Module, blocks: Sequence[Block], example: Tensor) -> None:
    """Raise DecompositionError unless the blocks give the model's output at two batch sizes and have all of its state_dict."""
    inputs, output = _tried(model, example)
    for batch, whole in ((inputs, output), (inputs[:1], _output(model, inputs[:1]))):
        if not torch.equal(run_chain(blocks, batch.clone()).nan_to_num(), whole.nan_to_num()):
            raise DecompositionError(
                f"{type(model).__name__} in {len(blocks)} blocks gives another output than whole on a batch of {len(batch)}: "
                f"something in forward() depends on the batch or on chance. {REMEDIES}"
            )
    check_used(model, [name for block in blocks for name in block.names])
