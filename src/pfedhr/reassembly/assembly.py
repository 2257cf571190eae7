"""Making a recipe into a network: blocks copied from the bank, joined by small layers where shapes or neighbours differ."""

from __future__ import annotations

import copy
import functools
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from pfedhr.reassembly.bank import BlockBank, BlockRef
from pfedhr.reassembly.blocks import Shape
from pfedhr.reassembly.recipes import Recipe
from pfedhr.reassembly.stitching import StitchKind, affordable, stitch


@dataclass(frozen=True)
class Joint:
    """A layer between blocks or behind the last, from activations of shape `source` to `target`, both without batch.

    `flatten` joins neighbours of one network, `head` gives the logits, `light` and `full` are stitches of so many `layers`.
    `image`: the source is the networks' input. `from_signal`, `to_signal`: see `stitch`.
    """

    kind: StitchKind | Literal["flatten", "head"]
    source: Shape
    target: Shape
    image: bool = False
    layers: int = 1
    from_signal: bool = False
    to_signal: bool = False

    def build(self) -> nn.Module:
        """Return the layer, its initial weights from torch's global generator."""
        match self.kind:
            case "flatten":
                return nn.Flatten()
            case "head":
                return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(self.source), self.target[0]))
            case "light" | "full":
                signals = {"from_signal": self.from_signal, "to_signal": self.to_signal}
                return stitch(self.source, self.target, self.kind, image=self.image, layers=self.layers, **signals)


def layout(recipe: Recipe, bank: BlockBank, kind: StitchKind = "light", layers: int = 1) -> dict[str, BlockRef | Joint]:
    """Return the parts of the network of `recipe` in order: its blocks, and what joins them.

    A first block of its network reads the input itself, a block its neighbour's output; between any others is a stitch. After a
    block that does not give logits comes a linear layer to the classes. The names are block1, stitch2_light, block2, ..., head.
    """
    parts: dict[str, BlockRef | Joint] = {}
    before = None
    for place, ref in enumerate(recipe.blocks, start=1):
        if joint := _joint(before, ref, bank, kind, layers):
            parts[f"flatten{place}" if joint.kind == "flatten" else f"stitch{place}_{joint.kind}"] = joint
        parts[f"block{place}"] = before = ref
    if head := _head(recipe.blocks[-1], bank):
        parts["head"] = head
    return parts


def _joint(before: BlockRef | None, ref: BlockRef, bank: BlockBank, kind: StitchKind, layers: int) -> Joint | None:
    """Return what stands between two blocks, or between the input and `ref`, if anything."""
    source, target = bank[before].out_shape if before else bank.input_shape, bank[ref].in_shape
    follows = (before.owner, before.index + 1) == ref if before else ref.index == 1
    if not follows:
        signals = bank[before].gives_signal if before else bank.signal, bank[ref].takes_signal
        return Joint(affordable(source, target, kind), source, target, before is None, layers, *signals)
    return Joint("flatten", source, target) if len(target) == 1 and len(source) > 1 else None


def _head(last: BlockRef, bank: BlockBank) -> Joint | None:
    return None if bank.is_last(last) else Joint("head", bank[last].out_shape, (bank.classes,))


class Sizes:
    """How many values the networks of `layout` hold, known before any of them is made: as many as all their steps and the end.

    `kind` and `layers` are those of the stitches.
    """

    def __init__(self, bank: BlockBank, kind: StitchKind = "light", layers: int = 1) -> None:
        self._bank, self._layers = bank, layers
        self._kind: StitchKind = kind
        self._blocks = {ref: block.size for ref, block in bank.items()}
        self._between = functools.cache(self._size_between)

    def step(self, before: BlockRef | None, ref: BlockRef) -> int:
        """Return the values of `ref` and of what joins it to the block before, or to the input."""
        return self._blocks[ref] + self._between(before, ref)

    def end(self, last: BlockRef) -> int:
        """Return the values of the head behind a last block, if it needs one."""
        head = _head(last, self._bank)
        return _joint_size(head) if head else 0

    def whole(self, recipe: Recipe) -> int:
        """Return the values of the network of `recipe`."""
        steps = zip((None, *recipe.blocks), recipe.blocks, strict=False)
        return sum(self.step(before, ref) for before, ref in steps) + self.end(recipe.blocks[-1])

    def _size_between(self, before: BlockRef | None, ref: BlockRef) -> int:
        joint = _joint(before, ref, self._bank, self._kind, self._layers)
        return _joint_size(joint) if joint else 0


@functools.cache
def _joint_size(joint: Joint) -> int:
    with torch.device("meta"):  # counted, not allocated
        return sum(value.numel() for value in joint.build().state_dict().values())


def assemble(recipe: Recipe, bank: BlockBank, kind: StitchKind = "light", layers: int = 1) -> nn.Sequential:
    """Return the network of `recipe` as `layout` has it: copies of its blocks, and new stitches and head.

    Their initial weights come from torch's global generator; what does not learn in a network does not learn in a candidate.
    Raises StitchError for shapes that no stitch joins.
    """

    def build(part: BlockRef | Joint) -> nn.Module:
        return part.build() if isinstance(part, Joint) else copy.deepcopy(bank[part].module)

    return nn.Sequential(OrderedDict((name, build(part)) for name, part in layout(recipe, bank, kind, layers).items()))
