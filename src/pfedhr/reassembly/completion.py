"""Candidates for one network: its blocks give place to others of their groups (CMSR, the search of pFedClub)."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Literal

import torch

from pfedhr.reassembly.assembly import Sizes
from pfedhr.reassembly.bank import BlockBank, BlockRef
from pfedhr.reassembly.drawing import distinct_numbers, python_random
from pfedhr.reassembly.grouping import Groups
from pfedhr.reassembly.recipes import Recipe, connects, operation_order
from pfedhr.reassembly.similarity import Similarity
from pfedhr.reassembly.walks import Walks

AnchorChoice = Literal["random", "similar", "smallest"]
"""Which block of the group that the network's first block is in begins every candidate.

`similar`: the one most like that first block, itself last of all; `smallest`: one of the smallest index.
"""

TRIES = 20
"""How many chains are looked at for each that is wanted, where a budget is known in coarse units only."""


@dataclass(frozen=True)
class CompletionRules:
    """What candidates keep to. `anchor`: see AnchorChoice.

    `increasing`: of the blocks that replace others each has a larger index than the one before. `complete`: where no block
    fits, the network's own follow. `operation_order`: no block follows one of a later kind of operation, but its own neighbour.
    """

    anchor: AnchorChoice = "random"
    increasing: bool = True
    complete: bool = True
    operation_order: bool = True


@dataclass(frozen=True)
class Completions:
    """Candidates for one network, and how many there were to choose from, the network's own chain and any size included.

    `own`: whether that chain was among them and has been left out. `fits`: whether the candidates keep to the size allowed.
    """

    recipes: tuple[Recipe, ...]
    total: int
    own: bool
    fits: bool


def complete(
    owner: str,
    groups: Groups,
    bank: BlockBank,
    similarity: Similarity,
    *,
    rules: CompletionRules | None = None,
    limit: int = 16,
    rng: torch.Generator,
    exclude_own: bool = True,
    sizes: Sizes | None = None,
    most: float = math.inf,
) -> Completions:
    """Return up to `limit` candidates for the network of `owner`: all that there are, or a uniform sample without repeats.

    One anchor begins all of them. The block at place r comes from the group of the owner's block r; from the first place on for
    which no block is left, the owner's own blocks follow. Where `rules` leave no candidate, own blocks follow from an earlier
    place; where even that leaves none, the next anchor is tried.

    `most`: how many values a candidate may hold, counted by `sizes`; if all hold more, the smallest is returned. The result
    depends neither on the order of the groups nor on that of the clients.
    """
    rules = rules or CompletionRules()
    draw = python_random(rng)
    chain = bank.chain(owner)
    members = {ref: tuple(sorted(found, key=lambda ref: ref.place)) for found in groups for ref in found}
    for anchor in _anchors(chain[0], members[chain[0]], similarity, rules.anchor, draw):
        levels = _levels(anchor, chain, members, rules.increasing)
        for stop in range(len(levels), 0, -1):
            search = _Search(levels[:stop], chain, bank, rules, exclude_own)
            if total := search.walks(own=True).total:
                recipes, fits = search.choose(limit, draw, sizes, most)
                return Completions(recipes, total, search.walks().total < total, fits)
    return Completions((), 0, False, True)


def _anchors(
    first: BlockRef, group: Sequence[BlockRef], similarity: Similarity, choice: AnchorChoice, draw: random.Random
) -> list[BlockRef]:
    """Return the blocks that may begin, in the order in which they are tried; equals in an order that is drawn."""
    anchors = draw.sample(group, len(group))
    if choice == "similar":
        row = similarity.values[similarity.refs.index(first)]
        # Six digits, so that the last bits of a matrix product decide nothing.
        alike = {ref: round(float(value), 6) for ref, value in zip(similarity.refs, row, strict=True)}
        anchors.sort(key=lambda ref: (ref == first, -alike[ref]))
    elif choice == "smallest":
        anchors.sort(key=lambda ref: ref.index)
    return anchors


def _levels(
    anchor: BlockRef, chain: Sequence[BlockRef], members: dict[BlockRef, tuple[BlockRef, ...]], increasing: bool
) -> list[Sequence[BlockRef]]:
    """Return what each place may hold, up to the last for which there is something.

    What counts as reached is the smallest index of a place, so that the places after it stay as open as they can.
    """
    levels: list[Sequence[BlockRef]] = [(anchor,)]
    reached = anchor.index
    for own in chain[1:]:
        fitting = [ref for ref in members[own] if ref.index > reached or not increasing]
        if not fitting:
            break
        levels.append(fitting)
        reached = min(ref.index for ref in fitting)
    return levels


class _Search:
    """The candidates whose first blocks are of `levels` and whose others, if any, are the last of `chain`."""

    def __init__(
        self,
        levels: Sequence[Sequence[BlockRef]],
        chain: Sequence[BlockRef],
        bank: BlockBank,
        rules: CompletionRules,
        exclude_own: bool,
    ) -> None:
        own = [(ref,) for ref in chain[len(levels) :]] if rules.complete else []
        self._levels, self._replaced = [*levels, *own], len(levels)
        self._bank, self._rules = bank, rules
        self._excluded = tuple(chain) if exclude_own else ()
        self._joins = cache(self._find_joins)

    def walks(self, sizes: Sizes | None = None, most: float = math.inf, *, own: bool = False) -> Walks:
        """Return the candidates of at most `most` values in coarse units; with the owner's own chain where `own` says so."""
        return Walks(len(self._levels), self._fitting, () if own else self._excluded, sizes, most)

    def _fitting(self, place: int, last: BlockRef | None) -> list[BlockRef]:
        """Return what may stand at `place`, counted from 0, behind `last`."""
        rising = self._rules.increasing and place < self._replaced
        beyond = last.index if last and rising else 0
        return [ref for ref in self._levels[place] if ref.index > beyond and self._joins(last, ref)]

    def _find_joins(self, last: BlockRef | None, ref: BlockRef) -> bool:
        """Return whether `ref` can read what `last` gives, and may by its kind of operation."""
        if not connects(last, ref, self._bank):
            return False
        if last is None or (last.owner, last.index + 1) == ref:
            return True
        return not self._rules.operation_order or operation_order(last, ref, self._bank)

    def choose(self, limit: int, draw: random.Random, sizes: Sizes | None, most: float) -> tuple[tuple[Recipe, ...], bool]:
        """Return up to `limit` candidates, and whether they hold `most` values at most; the smallest if none does."""
        within = self.walks(None if math.isinf(most) else sizes, most)
        found = tuple(self._sample(within, limit, draw, sizes, most))
        if found or sizes is None or not (everything := self.walks(sizes)).total:
            return found, True
        smallest = everything.smallest()
        return (smallest,), sizes.whole(smallest) <= most

    def _sample(self, within: Walks, limit: int, draw: random.Random, sizes: Sizes | None, most: float) -> Iterator[Recipe]:
        def fits(recipe: Recipe) -> bool:
            return sizes is None or sizes.whole(recipe) <= most

        if within.total <= limit:
            return filter(fits, map(within.chain, range(within.total)))
        chosen: dict[int, Recipe] = {}
        for number in islice(distinct_numbers(within.total, draw), TRIES * limit):
            if fits(recipe := within.chain(number)):
                chosen[number] = recipe
            if len(chosen) == limit:
                break
        return iter(chosen[number] for number in sorted(chosen))
