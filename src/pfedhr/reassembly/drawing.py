"""Chains of blocks by number: how one is reached without listing the others, and how numbers are drawn."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from pfedhr.reassembly.bank import BlockRef

State = TypeVar("State")


def descend(
    number: int, state: State, onward: Callable[[State], Iterable[tuple[BlockRef | None, State, int]]]
) -> tuple[BlockRef, ...]:
    """Return chain `number`, counted from 0, of those that begin in `state`. Raises IndexError if there are not so many.

    `onward`: what may follow in a state, in order: a block, or None for the end; the state after it; the number of chains.
    """
    chain: list[BlockRef] = []
    while number >= 0:
        for ref, following, count in onward(state):
            if number < count:
                if ref is None:
                    return tuple(chain)
                chain.append(ref)
                state = following
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
