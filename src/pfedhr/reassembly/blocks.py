"""Taking a network apart into blocks, each with weights of its own, that give the network again when run in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from pfedhr.inference import inference
from pfedhr.reassembly.tracing import (
    REMEDIES,
    DecompositionError,
    Segment,
    extract,
    is_flatten,
    record,
    segments,
    trace,
    weights,
)
from pfedhr.seeding import generator

OPERATIONS = ("conv", "other", "fc")
"""Kinds of operation in the order that rule R2 lets them follow each other."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """One layer or inseparable group of layers of a network.

    `names`: its keys in the network's own state_dict; `op`: one of OPERATIONS; `in_shape`, `out_shape`: without the batch
    axis; `module`: computes the block and shares the network's tensors.
    """

    names: tuple[str, ...]
    op: str
    in_shape: Shape
    out_shape: Shape
    module: nn.Module = field(repr=False, compare=False)

    @property
    def parameters(self) -> int:
        """The number of trainable values."""
        return sum(value.numel() for value in self.module.parameters())


def decompose(model: nn.Module, example: Tensor, *, whole: bool = False) -> tuple[Block, ...]:
    """Cut `model` wherever exactly one tensor flows, so that each block owns a weight matrix or kernel.

    `example`: (n >= 1, ...), a batch of inputs. A normalisation, activation or pooling belongs to the block before it, a
    change of rank such as a mean over the map to the block after it; a flatten between two blocks belongs to neither and
    is what `run_chain` adds. `whole` gives the network as one block. The model is left as it was. Checked every time: the
    blocks run in order give the model's output bit for bit, and their names partition its state_dict.

    Raises DecompositionError naming the place and the remedies.
    """
    example = _three_inputs(example)
    with inference(model):
        if whole:
            return (_whole(model, example),)
        graph = trace(model)
        values = record(model, graph, example)
        groups = _join(segments(model, graph, values), model, values)
        blocks = tuple(_block(model, run, values) for run in _merge_shared(groups, model))
        _verify(model, blocks, example)
    return blocks


def _three_inputs(example: Tensor) -> Tensor:
    """Return three inputs like those of `example`, all different where they can be drawn.

    On equal or empty inputs, such as zeros, two different computations may well agree.
    """
    shape = (3, *example.shape[1:])
    if example.is_floating_point():
        return torch.randn(shape, generator=generator(0, "decompose")).to(example)
    return example[:1].expand(shape).contiguous()


def run_chain(blocks: Sequence[Block], inputs: Tensor) -> Tensor:
    """Return what the blocks give in order on `inputs` (n, ...), flattening a map where the next block takes a vector."""
    for block in blocks:
        inputs = block.module(flatten_for(block, inputs))
    return inputs


def flatten_for(block: Block, inputs: Tensor) -> Tensor:
    """Return `inputs` (n, ...) as `block` takes them from its own predecessor."""
    return inputs.flatten(1) if len(block.in_shape) == 1 and inputs.dim() > 2 else inputs


def _join(found: Sequence[Segment], model: nn.Module, values: Mapping[fx.Node, Any]) -> list[list[Segment]]:
    """Join segments so that each run holds one weight of rank two or more; a flatten between two runs is left out."""
    runs: list[list[Segment]] = []
    waiting: list[Segment] = []  # segments that join the next weight
    flattened: list[Segment] = []  # a flatten, left out if a weight follows
    for segment in found:
        if any(value.dim() >= 2 for _, value in weights(model, segment.nodes).values()):
            runs.append([*waiting, segment])
            waiting, flattened = [], []
        elif not waiting and is_flatten(values[segment.entering], values[segment.leaving]):
            flattened = [segment]
        elif flattened or waiting or not runs or values[segment.entering].dim() != values[segment.leaving].dim():
            waiting.append(segment)
        else:
            runs[-1].append(segment)
    if not runs:
        raise DecompositionError(f"{type(model).__name__} has no weight of rank two or more. {REMEDIES}")
    runs[-1] += flattened + waiting
    return runs


def _merge_shared(runs: Sequence[list[Segment]], model: nn.Module) -> list[list[Segment]]:
    """Merge runs that use the same parameter, with all that lies between them."""
    merged: list[list[Segment]] = []
    owned: list[set[int]] = []
    for run in runs:
        mine = {id(value) for segment in run for _, value in weights(model, segment.nodes).values()}
        first = next((at for at, others in enumerate(owned) if others & mine), len(merged))
        merged[first:] = [[segment for part in [*merged[first:], run] for segment in part]]
        owned[first:] = [set().union(mine, *owned[first:])]
    return merged


def _block(model: nn.Module, run: Sequence[Segment], values: Mapping[fx.Node, Any]) -> Block:
    entering, leaving = run[0].entering, run[-1].leaving
    nodes = [node for segment in run for node in segment.nodes]
    module = extract(model, nodes, entering, leaving)
    used = weights(model, nodes).values()
    operations = {_operation(layer, value) for layer, value in used if value.dim() >= 2}
    return Block(
        names=tuple(module.state_dict()),
        op=min(operations, key=OPERATIONS.index),
        in_shape=tuple(values[entering].shape[1:]),
        out_shape=tuple(values[leaving].shape[1:]),
        module=module,
    )


def _operation(layer: nn.Module | None, weight: Tensor) -> str:
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) or (layer is None and weight.dim() >= 3):
        return "conv"
    return "fc" if isinstance(layer, nn.Linear) or (layer is None and weight.dim() == 2) else "other"


def _whole(model: nn.Module, example: Tensor) -> Block:
    output = model(example)
    if not isinstance(output, Tensor):
        raise DecompositionError(f"{type(model).__name__} returns {type(output).__name__}, not one tensor. {REMEDIES}")
    return Block(tuple(model.state_dict()), "other", tuple(example.shape[1:]), tuple(output.shape[1:]), model)


def _verify(model: nn.Module, blocks: Sequence[Block], example: Tensor) -> None:
    """Raise DecompositionError unless the blocks give the model's output at two batch sizes and partition its state_dict."""
    for batch in (example, example[:2]):
        if not torch.equal(run_chain(blocks, batch).nan_to_num(), model(batch).nan_to_num()):
            raise DecompositionError(
                f"{type(model).__name__} in {len(blocks)} blocks gives another output than whole on a batch of {len(batch)}: "
                f"something in forward() depends on the batch or on chance. {REMEDIES}"
            )
    names = [name for block in blocks for name in block.names]
    missing = sorted(set(model.state_dict()) - set(names))
    twice = sorted({name for name in names if names.count(name) > 1})
    if missing or twice:
        what = f"never uses {', '.join(missing)}" if missing else f"uses {', '.join(twice)} in two blocks"
        raise DecompositionError(f"{type(model).__name__} {what}: each entry of a state_dict must be in one block. {REMEDIES}")
