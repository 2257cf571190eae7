"""Candidates as data: which blocks of whose networks, in which order, may make a new network (Algorithm 1 of pFedHR)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice

import torch

from pfedhr.reassembly.bank import BlockBank, BlockRef
from pfedhr.reassembly.drawing import Steps, count_chains, descend, distinct_numbers, python_random
from pfedhr.reassembly.grouping import Groups
from pfedhr.reassembly.operations import RANKS
from pfedhr.reassembly.stitching import joinable


@dataclass(frozen=True)
class Recipe:
    """A network to be: blocks in the order in which they run."""

    blocks: tuple[BlockRef, ...]

    def __str__(self) -> str:
        return " ".join(map(str, self.blocks))

    @property
    def owners(self) -> frozenset[str]:
        """The networks that the blocks come from."""
        return frozenset(ref.owner for ref in self.blocks)


@dataclass(frozen=True)
class Coverage:
    """What a chain of blocks holds: kinds of operation, and groups by their place in the list of groups."""

    operations: frozenset[str] = frozenset()
    groups: frozenset[int] = frozenset()

    def reach(self, operation: str, group: int) -> Coverage:
        """Return what is covered with one more block."""
        return Coverage(self.operations | {operation}, self.groups | {group})


StepRule = Callable[[BlockRef, BlockRef, BlockBank], bool]
WholeRule = Callable[[Coverage, Coverage], bool]


def connects(last: BlockRef | None, following: BlockRef, bank: BlockBank) -> bool:
    """Return whether `following` can read what `last` gives, or the networks' input for None, as it is or through a stitch.

    No stitch joins whole numbers, such as tokens, to anything: they go where they went in their own network.
    """
    block = bank[following]
    if following.index == 1 and last is None:
        return True
    if last is not None and (last.owner, last.index + 1) == following:
        return True
    source, integers = (bank[last].out_shape, bank.gives_integers(last)) if last else (bank.input_shape, bank.integers)
    return not integers and not block.integers and joinable(source, block.in_shape)


def increasing_index(last: BlockRef, following: BlockRef, bank: BlockBank) -> bool:
    """R1: a block follows blocks of smaller index only, whichever networks they come from."""
    return following.index > last.index


def operation_order(last: BlockRef, following: BlockRef, bank: BlockBank) -> bool:
    """R2: operations come in their natural order; a fully connected block is never followed by a convolution."""
    return RANKS[bank[following].op] >= RANKS[bank[last].op]


def every_operation(found: Coverage, wanted: Coverage) -> bool:
    """R3: every kind of operation that all networks of the cohort have occurs."""
    return found.operations >= wanted.operations


def every_group(found: Coverage, wanted: Coverage) -> bool:
    """R4: every group gives a block."""
    return found.groups == wanted.groups


@dataclass(frozen=True)
class Rules:
    """`steps` hold between neighbours, `wholes` for a complete chain. R1 must be among the steps: it bounds the search."""

    steps: tuple[StepRule, ...] = (increasing_index, operation_order)
    wholes: tuple[WholeRule, ...] = (every_operation, every_group)


RULES = Rules()
_State = tuple[BlockRef | None, Coverage]


class Search:
    """All chains that the rules allow, counted exactly and reached by number, without listing them.

    What may still follow a chain depends on its last block and on what it covers, not on how it came about. So the number of
    ways to go on is known for each such state once, and the chain of any number is found by walking down these counts.
    """

    def __init__(self, groups: Groups, bank: BlockBank, rules: Rules, repeat_groups: bool) -> None:
        if increasing_index not in rules.steps:
            raise ValueError("rules without increasing_index (R1) allow chains without end: add it to the steps")
        self._bank, self._rules, self._repeat = bank, rules, repeat_groups
        self._group = {ref: at for at, members in enumerate(groups) for ref in members}
        self._wanted = Coverage(bank.operations, frozenset(range(len(groups))))
        self._all_groups = every_group in rules.wholes
        self._depth = max(ref.index for ref in bank)
        self._followers = cache(self._find_followers)
        self._reach = cache(Coverage.reach)

    @property
    def total(self) -> int:
        """The number of chains; it may exceed 64 bits."""
        return self._counts[None, Coverage()]

    def chain(self, number: int) -> Recipe:
        """Return chain `number`, 0 <= number < total, in the order of (index, owner) from the first block on."""
        return Recipe(descend(number, (None, Coverage()), self._onward, self._counts))

    def _complete(self, last: BlockRef | None, covered: Coverage) -> bool:
        return last is not None and all(rule(covered, self._wanted) for rule in self._rules.wholes)

    def _steps(self, last: BlockRef | None, covered: Coverage) -> Iterator[tuple[BlockRef, Coverage]]:
        """Yield what may come next, each with what the chain then covers."""
        for ref, operation, at in self._followers(last):
            if not self._repeat and at in covered.groups:
                continue
            reached = self._reach(covered, operation, at)
            # By R1 every group still missing needs an index of its own above this one.
            if self._all_groups and len(self._wanted.groups) - len(reached.groups) > self._depth - ref.index:
                continue
            yield ref, reached

    def _find_followers(self, last: BlockRef | None) -> list[tuple[BlockRef, str, int]]:
        """Return the blocks that can and may follow `last`, or begin a chain, each with its operation and group."""
        return [
            (ref, block.op, self._group[ref])
            for ref, block in self._bank.items()
            if connects(last, ref, self._bank)
            and (last is None or all(rule(last, ref, self._bank) for rule in self._rules.steps))
        ]

    def _onward(self, state: _State) -> Steps[_State]:
        """Return what may follow in a state, the end first, each with the state after it."""
        last, covered = state
        steps: list[tuple[BlockRef | None, _State]] = [(None, state)] if self._complete(last, covered) else []
        return steps + [(ref, (ref, reached)) for ref, reached in self._steps(last, covered)]

    @cached_property
    def _counts(self) -> dict[_State, int]:
        """The number of ways to go on, by state."""
        return count_chains((None, Coverage()), self._onward)


def propose(
    groups: Groups,
    bank: BlockBank,
    *,
    rules: Rules = RULES,
    limit: int = 16,
    rng: torch.Generator,
    repeat_groups: bool = False,
) -> tuple[Recipe, ...]:
    """Return up to `limit` recipes that keep the rules: all of them, or a uniform sample without repeats.

    Each group gives one block, or any number of them with `repeat_groups`. The result depends neither on the order of the
    groups nor on that of the clients, and comes in the order of the search; it is empty if the rules allow nothing.
    """
    search = Search(groups, bank, rules, repeat_groups)
    if search.total <= limit:
        return tuple(search.chain(number) for number in range(search.total))
    numbers = islice(distinct_numbers(search.total, python_random(rng)), limit)
    return tuple(search.chain(number) for number in sorted(numbers))
