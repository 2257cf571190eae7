"""Chains of as many blocks as there are places, counted exactly and reached by number, without listing them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, cached_property

from pfedhr.reassembly.assembly import Sizes
from pfedhr.reassembly.bank import BlockRef
from pfedhr.reassembly.drawing import Steps, count_chains, descend, ends_first
from pfedhr.reassembly.recipes import Recipe

Fitting = Callable[[int, BlockRef | None], Sequence[BlockRef]]
"""The blocks that may stand at a place, counted from 0, behind a block, or behind none at the first place."""

GRAIN = 2**12
"""Units in which a size that is allowed is spent: a size of fewer values is spent exactly."""

_State = tuple[int, BlockRef | None, bool, int | None]
"""Where a chain stands: its next place, its last block, whether it is the excluded one so far, and the units that are left.

None for units that no longer matter.
"""

_Place = tuple[int, BlockRef | None, bool]
"""A state but for the units."""


class Walks:
    """All chains of `length` blocks in which each is `fitting` behind the one before, but for the chain `excluded`.

    What may still follow depends on the place, on the last block, on whether the chain is the excluded one so far, and on the
    size that is left; so the number of ways to go on is known for each such state once. Where all of them fit into what is left
    it no longer matters, and where none does there is nothing to look at.

    `most`: how many values a chain may hold, counted by `sizes`. Above GRAIN of them every part is rounded down to units, so
    that a chain slightly over `most` may be among them, and none under it is missing.
    """

    def __init__(
        self,
        length: int,
        fitting: Fitting,
        excluded: Sequence[BlockRef] = (),
        sizes: Sizes | None = None,
        most: float = math.inf,
    ) -> None:
        self._length, self._fitting, self._sizes = length, fitting, sizes
        self._excluded = tuple(excluded) if len(excluded) == length else ()
        self._unit = 1 if math.isinf(most) else max(1, math.floor(most) // GRAIN)
        self._allowed = None if math.isinf(most) else math.floor(most) // self._unit
        self._steps = cache(self._find_steps)

    @property
    def total(self) -> int:
        """The number of chains; it may exceed 64 bits."""
        return self._counts[self._start]

    def chain(self, number: int) -> Recipe:
        """Return chain `number`, 0 <= number < total, in the order of the fitting blocks from the first on."""
        return Recipe(descend(number, self._start, self._onward, self._counts))

    def smallest(self) -> Recipe:
        """Return the chain that holds the fewest values, the first of equals; there must be one."""
        chain: list[BlockRef] = []
        last, excluded = None, bool(self._excluded)
        for place in range(self._length):
            steps = self._steps(place, last, excluded)
            least = [size + self._spans[place + 1, ref, same][0] for ref, size, same in steps]
            last, _, excluded = steps[least.index(min(least))]
            chain.append(last)
        return Recipe(tuple(chain))

    def _find_steps(self, place: int, last: BlockRef | None, excluded: bool) -> list[tuple[BlockRef, int, bool]]:
        """Return what may come next: a block, the units that it takes, and whether the chain is then still the excluded one."""
        twin = self._excluded[place] if excluded else None
        sizes = self._sizes
        return [(ref, sizes.step(last, ref) // self._unit if sizes else 0, ref == twin) for ref in self._fitting(place, last)]

    def _after(self, state: _Place) -> Steps[_Place]:
        """Return what may follow at a place whatever its size."""
        place, last, excluded = state
        if place == self._length:
            return [] if excluded else [(None, state)]
        return [(ref, (place + 1, ref, same)) for ref, _, same in self._steps(place, last, excluded)]

    @cached_property
    def _spans(self) -> dict[_Place, tuple[float, float]]:
        """The fewest and the most units that what follows at a place can take; infinite where nothing can follow."""
        spans: dict[_Place, tuple[float, float]] = {}
        for (place, last, excluded), _ in ends_first((0, None, bool(self._excluded)), self._after):
            least, most = math.inf, -math.inf
            if place == self._length and last is not None and not excluded:
                least = most = float(self._sizes.end(last) // self._unit) if self._sizes else 0.0
            elif place < self._length:
                for ref, size, same in self._steps(place, last, excluded):
                    low, high = spans[place + 1, ref, same]
                    least, most = min(least, size + low), max(most, size + high)
            spans[place, last, excluded] = least, most
        return spans

    @property
    def _start(self) -> _State:
        return 0, None, bool(self._excluded), self._matters((0, None, bool(self._excluded)), self._allowed)

    def _matters(self, place: _Place, left: int | None) -> int | None:
        """Return `left`, or None where all that can follow at `place` fits into it."""
        return None if left is None or self._spans[place][1] <= left else left

    def _onward(self, state: _State) -> Steps[_State]:
        """Return what may follow in a state and fits, each with the state after it."""
        place, last, excluded, left = state
        if place == self._length:
            return [] if excluded or left is not None else [(None, state)]
        steps: list[tuple[BlockRef | None, _State]] = []
        for ref, size, same in self._steps(place, last, excluded):
            after, rest = (place + 1, ref, same), None if left is None else left - size
            if rest is None or self._spans[after][0] <= rest:
                steps.append((ref, (*after, self._matters(after, rest))))
        return steps

    @cached_property
    def _counts(self) -> dict[_State, int]:
        """The number of ways to go on, by state."""
        return count_chains(self._start, self._onward)
