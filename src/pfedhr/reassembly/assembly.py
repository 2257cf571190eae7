"""Making a recipe into a network: blocks copied from the bank, joined by small layers where shapes or neighbours differ."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from torch import nn

from pfedhr.reassembly.bank import BlockBank, BlockRef
from pfedhr.reassembly.blocks import Shape
from pfedhr.reassembly.recipes import Recipe
from pfedhr.reassembly.stitching import StitchKind, affordable, stitch


@dataclass(frozen=True)
class Joint:
    """A layer between blocks or behind the last, from activations of shape `source` to `target`, both without batch.

    `flatten` joins neighbours of one network, `head` gives the logits, `light` and `full` are stitches of so many `layers`.
    `image`: the source is the networks' input.
    """

    kind: StitchKind | Literal["flatten", "head"]
    source: Shape
    target: Shape
    image: bool = False
    layers: int = 1

    def build(self) -> nn.Module:
        """Return the layer, its initial weights from torch's global generator."""
        match self.kind:
            case "flatten":
                return nn.Flatten()
            case "head":
                return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(self.source), self.target[0]))
            case "light" | "full":
                return stitch(self.source, self.target, self.kind, image=self.image, layers=self.layers)


def layout(recipe: Recipe, bank: BlockBank, kind: StitchKind = "light", layers: int = 1) -> dict[str, BlockRef | Joint]:
    """Return the parts of the network of `recipe` in order: its blocks, and what joins them.

    A first block of its network reads the input itself, a block its neighbour's output; between any others is a stitch. After a
    block that does not give logits comes a linear layer to the classes. The names are block1, stitch2_light, block2, ..., head.
    """
    parts: dict[str, BlockRef | Joint] = {}
    source, before = bank.input_shape, None
    for place, ref in enumerate(recipe.blocks, start=1):
        block = bank[ref]
        follows = (before.owner, before.index + 1) == ref if before else ref.index == 1
        if not follows:
            used = affordable(source, block.in_shape, kind)
            parts[f"stitch{place}_{used}"] = Joint(used, source, block.in_shape, before is None, layers)
        elif len(block.in_shape) == 1 and len(source) > 1:
            parts[f"flatten{place}"] = Joint("flatten", source, block.in_shape)
        parts[f"block{place}"] = ref
        source, before = block.out_shape, ref
    if not bank.is_last(recipe.blocks[-1]):
        parts["head"] = Joint("head", source, (bank.classes,))
    return parts


def assemble(recipe: Recipe, bank: BlockBank, kind: StitchKind = "light", layers: int = 1) -> nn.Sequential:
    """Return the network of `recipe` as `layout` has it: copies of its blocks, and new stitches and head.

    Their initial weights come from torch's global generator. Raises StitchError for shapes that no stitch joins.
    """

    def build(part: BlockRef | Joint) -> nn.Module:
        return part.build() if isinstance(part, Joint) else copy.deepcopy(bank[part].module).requires_grad_(True)

    return nn.Sequential(OrderedDict((name, build(part)) for name, part in layout(recipe, bank, kind, layers).items()))
