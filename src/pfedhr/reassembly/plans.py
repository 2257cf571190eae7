"""Blocks as data: a described network is cut once, and its blocks are rebuilt one by one from whatever weights come."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pfedhr.inference import inference
from pfedhr.parcel import ParcelError, Tensors
from pfedhr.reassembly.blocks import Block, Shape, coarsen, decompose, flatten_for
from pfedhr.reassembly.blueprint import Blueprint, Description, describe
from pfedhr.reassembly.rebuilding import input_of, rebuild, skeleton
from pfedhr.seeding import generator


@dataclass(frozen=True)
class BlockPlan:
    """A block without weights: `description` names them in the blueprint of its network; the rest is as in `Block`.

    A buffer that several blocks read is in the description of each and in the `names` of the first.
    """

    names: tuple[str, ...]
    description: Description
    op: str
    in_shape: Shape
    out_shape: Shape
    integers: bool
    takes_signal: bool
    gives_signal: bool

    def weights(self, network: Tensors) -> Tensors:
        """Return the weights that the block's own blueprint asks for, given those of its network."""
        return self.description.renamed(network)

    def block(self, network: Tensors) -> Block:
        """Return the block with these weights of its network. Raises ParcelError if they are another's."""
        module = rebuild(self.description.blueprint, self.weights(network))
        signals = self.takes_signal, self.gives_signal
        return Block(self.names, self.op, self.in_shape, self.out_shape, module, self.integers, *signals)


@functools.lru_cache(maxsize=256)
def cut(blueprint: Blueprint, most: int = 0) -> tuple[BlockPlan, ...]:
    """Return the blocks of a described network, at most `most` of them unless that is 0.

    Raises ParcelError for a blueprint that cannot be rebuilt, DecompositionError for a network that cannot be cut.
    """
    weights = trial_weights(blueprint)
    model = rebuild(blueprint, weights)
    names = {id(operator.attrgetter(name)(model)): name for name in weights}
    values = input_of(blueprint, 3)
    blocks = decompose(model, values)
    plans: list[BlockPlan] = []
    for block in coarsen(blocks, most) if most else blocks:
        values = flatten_for(block, values)
        described = describe(block.module, values)
        held = {name: operator.attrgetter(theirs)(block.module) for name, theirs in described.names.items()}
        description = replace(described, names={name: names[id(value)] for name, value in held.items()})
        own = tuple(name for name in description.names.values() if all(name not in plan.names for plan in plans))
        signals = block.takes_signal, block.gives_signal
        plans.append(BlockPlan(own, description, block.op, block.in_shape, block.out_shape, block.integers, *signals))
        with inference(block.module):
            values = block.module(values)
    return tuple(plans)


def trial_weights(blueprint: Blueprint) -> Tensors:
    """Return weights with which a network computes something of moderate size, always the same."""
    module, ties = skeleton(blueprint.graph)

    def trial(name: str, value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return (
                torch.ones(value.shape, dtype=value.dtype)
                if value.dtype == torch.bool
                else torch.zeros_like(value, device="cpu")
            )
        rng = generator(0, "trial weights", name)
        if value.dim() < 2:
            return torch.rand(value.shape, generator=rng).add_(0.5).to(value.dtype)
        fan_in = max(value[0].numel(), 1)
        return torch.randn(value.shape, generator=rng).div_(math.sqrt(fan_in)).to(value.dtype)

    return {name: trial(name, value) for name, value in module.state_dict().items() if name not in ties}


def rebuild_blocks(plans: Sequence[BlockPlan], weights: Tensors) -> tuple[Block, ...]:
    """Return the blocks of the network that `plans` are of, with its weights. Raises ParcelError if they are another's."""
    wanted = {name for plan in plans for name in plan.description.names.values()}
    if different := sorted(wanted ^ weights.keys()):
        raise ParcelError(f"the weights are not those of the blueprint: {', '.join(different[:5])} on one side only")
    return tuple(plan.block(weights) for plan in plans)
