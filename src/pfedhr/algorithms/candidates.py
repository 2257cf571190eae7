"""The search for candidates: groups of blocks by function, and recipes that take blocks from them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pfedhr.algorithms.stopwatch import Stopwatch
from pfedhr.reassembly import BlockBank, Groups, Recipe, Similarity, group, propose

LOG = logging.getLogger("pfedhr")


@dataclass(frozen=True)
class Limits:
    """How many groups and candidates there are at most, and whether a group may give several blocks to one of these."""

    groups: int
    candidates: int
    repeat_groups: bool


def search(
    similarity: Similarity, bank: BlockBank, limits: Limits, rng: torch.Generator, watch: Stopwatch
) -> tuple[Groups, Sequence[Recipe]]:
    """Return groups, eq. (1), and recipes by the rules of pFedHR; of fewer groups where these allow none."""
    deepest = max(ref.index for ref in bank)
    most = len(bank) if limits.repeat_groups else min(len(bank), deepest)  # by R1 no chain is longer than the deepest network
    for count in range(min(limits.groups, most), 1, -1):
        with watch("group"):
            groups = group(similarity, count)
        with watch("propose"):
            recipes = propose(groups, bank, limit=limits.candidates, rng=rng, repeat_groups=limits.repeat_groups)
        if recipes:
            tell_fewer(limits.groups, count)
            return groups, recipes
    tell_fewer(limits.groups, 0)
    return (), ()


@functools.cache
def tell_fewer(asked: int, made: int) -> None:
    """Warn, once a process for two numbers, where there are fewer groups than were asked for, 0 = no candidate at all."""
    if not made:
        LOG.warning("no candidate can be made of a round's blocks, so that its clients get no teachers: choose deeper networks")
    elif made < asked:
        LOG.warning(
            "a round's blocks fall into %d groups, not into the %d of algorithm.groups: of more, no candidate has a block of "
            "every one; choose fewer, or deeper networks",
            made,
            asked,
        )
