"""A reassembled network that travels: how to make it again, and its weights."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from pfedhr.algorithms.uploads import Source
from pfedhr.parcel import ParcelError, Tensors
from pfedhr.reassembly import (
    BlockBank,
    BlockPlan,
    BlockRef,
    Blueprint,
    Description,
    Joint,
    Recipe,
    StitchKind,
    describe,
    layout,
    rebuild,
)
from pfedhr.seeding import seeded

JOINTS = ("stitch", "head")
"""How the names of a teacher's parts begin that are none of its donors' blocks."""


@dataclass(frozen=True)
class Teacher:
    """A reassembled network: all that it takes to run it where nobody knows the networks that it is made of, and no more.

    `recipe` says where its blocks come from; `parts` are the blueprints of blocks, stitches and head in order, by their names
    in `layout`; `weights` are theirs, "block1.layer0.weight" and so on. `round`: when it was made, counted from 1.
    """

    recipe: Recipe
    parts: dict[str, Blueprint]
    round: int
    weights: Tensors


@dataclass(frozen=True)
class Deposit:
    """Networks on the server: where their blocks come from, and the bank of these."""

    sources: Mapping[str, Source]
    bank: BlockBank


def draft(
    recipe: Recipe, bank: BlockBank, sources: Mapping[str, Source], stitch: StitchKind, round: int, layers: int = 1
) -> Teacher:
    """Return the untuned network of `recipe`; the initial weights of its stitches and head come from torch's generator."""
    parts: dict[str, Blueprint] = {}
    weights: Tensors = {}
    for name, part in layout(recipe, bank, stitch, layers).items():
        if isinstance(part, Joint):
            description = _describe_joint(part)
            held = description.weights(part.build())
        else:
            plan = sources[part.owner].plans[part.index - 1]
            description, held = plan.description, plan.weights(sources[part.owner].weights)
        parts[name] = description.blueprint
        weights |= {f"{name}.{own}": value for own, value in held.items()}
    return Teacher(recipe, parts, round, weights)


def with_joints(teacher: Teacher, parts: Mapping[str, BlockRef | Joint], modules: Mapping[str, nn.Module]) -> Teacher:
    """Return the teacher with the weights of stitches and heads in `modules`, by their names in `parts`, its `layout`."""
    weights = dict(teacher.weights)
    for name, module in modules.items():
        if isinstance(part := parts[name], Joint):
            weights |= {f"{name}.{own}": value.cpu() for own, value in _describe_joint(part).weights(module).items()}
    return replace(teacher, weights=weights)


@functools.cache
def _describe_joint(joint: Joint) -> Description:
    with seeded(0, "joint"):  # its weights do not matter, and leave the generator alone
        return describe(joint.build(), torch.zeros(1, *joint.source))


def teacher_network(teacher: Teacher) -> nn.Sequential:
    """Return the network of `teacher`, in train mode. Raises ParcelError for parts or weights that make none."""
    if not all(map(str.isidentifier, teacher.parts)):
        raise ParcelError("the parts of the teacher bear names that are none")
    held: dict[str, Tensors] = {name: {} for name in teacher.parts}
    for name, value in teacher.weights.items():
        part, _, own = name.partition(".")
        if part not in held:
            raise ParcelError(f"the teacher has the weight {name[:60]}, but no such part")
        held[part][own] = value
    return nn.Sequential(OrderedDict((name, rebuild(teacher.parts[name], weights)) for name, weights in held.items())).train()


def size(teacher: Teacher, parts: str | tuple[str, ...] = "") -> int:
    """Return how many values a teacher holds, or those parts of it whose names start so."""
    return sum(value.numel() for name, value in teacher.weights.items() if name.startswith(parts))


def full_stitches(teacher: Teacher) -> int:
    """Return how many stitches of a teacher are dense: where that would be too large, a light one took its place."""
    return len({part for part in (name.split(".")[0] for name in teacher.weights) if part.endswith("_full")})


def weights_in(teacher: Teacher, plans: Sequence[BlockPlan]) -> Tensors | None:
    """Return the weights of the network of blocks `plans`, by its blueprint's names, if the teacher is of its structure."""
    blocks = [part for name, part in teacher.parts.items() if name.startswith("block")]
    stitched = any(name.startswith(JOINTS) for name in teacher.parts)
    if stitched or blocks != [plan.description.blueprint for plan in plans]:
        return None
    return {
        theirs: teacher.weights[f"block{place}.{own}"]
        for place, plan in enumerate(plans, start=1)
        for own, theirs in plan.description.names.items()
    }
