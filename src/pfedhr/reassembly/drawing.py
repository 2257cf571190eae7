"""Chains of blocks by number: how one is reached without listing the others, and how numbers are drawn."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch

from pfedhr.reassembly.bank import BlockRef

State = TypeVar("State", bound=Hashable)


Steps = Sequence[tuple[BlockRef | None, State]]
"""What may follow in a state, in order: a block, and the state after it; or None for the end, whose state does not matter."""


def ends_first(start: State, onward: Callable[[State], Steps[State]]) -> Iterator[tuple[State, Steps[State]]]:
    """Yield every state that can be reached, with what may follow in it, once and after all that follow it.

    By a list in place of recursion: chains may be longer than Python's stack is deep.
    """
    seen = {start}
    steps = onward(start)
    path = [(start, steps, iter(steps))]
    while path:
        state, steps, pending = path[-1]
        after = next((after for ref, after in pending if ref is not None and after not in seen), None)
        if after is None:
            yield state, steps
            path.pop()
        else:
            seen.add(after)
            steps = onward(after)
            path.append((after, steps, iter(steps)))


def count_chains(start: State, onward: Callable[[State], Steps[State]]) -> dict[State, int]:
    """Return how many ways there are to go on to the end, from every state that can be reached; they may exceed 64 bits."""
    counts: dict[State, int] = {}
    for state, steps in ends_first(start, onward):
        counts[state] = sum(1 if ref is None else counts[after] for ref, after in steps)
    return counts


def descend(
    number: int, state: State, onward: Callable[[State], Steps[State]], counts: Mapping[State, int]
) -> tuple[BlockRef, ...]:
    """Return chain `number`, counted from 0, of those that begin in `state`, given the `counts` of all states.

    Raises IndexError if there are not so many.
    """
    chain: list[BlockRef] = []
    while number >= 0:
        for ref, after in onward(state):
            count = 1 if ref is None else counts[after]
            if number < count:
                if ref is None:
                    return tuple(chain)
                chain.append(ref)
                state = after
                break
            number -= count
        else:
            break
    raise IndexError("there is no chain of this number")


def python_random(rng: torch.Generator) -> random.Random:
    """Return Python's generator, seeded by `rng`: the number of chains may exceed 64 bits, which torch's cannot draw from."""
    return random.Random(int(torch.randint(2**62, (), generator=rng)))


def distinct_numbers(total: int, draw: random.Random) -> Iterator[int]:
    """Yield all whole numbers from 0 to below `total` in random order, each once; meant for a few of many."""
    drawn: set[int] = set()
    while len(drawn) < total:
        number = draw.randrange(total)
        if number not in drawn:
            drawn.add(number)
            yield number
