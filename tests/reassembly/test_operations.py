"""Which operation may follow which, and what a cohort has."""

from __future__ import annotations

import itertools

import pytest
from test_recipes import TOY
from torch import nn
from toy import make_bank

from pfedhr.reassembly import Block, BlockBank, BlockRef, Recipe, propose
from pfedhr.reassembly.operations import RANKS
from pfedhr.reassembly.recipes import connects
from pfedhr.seeding import generator


def block(op: str, source: tuple[int, ...], target: tuple[int, ...], *, integers: bool = False) -> Block:
    return Block((), op, source, target, nn.Identity(), integers)


TEXT = BlockBank(
    {
        "bag": [block("embedding", (7,), (8,), integers=True), block("fc", (8,), (3,))],
        "lstm": [block("embedding", (7,), (7, 8), integers=True), block("recurrent", (7, 8), (8,)), block("fc", (8,), (3,))],
        "codes": [
            block("embedding", (7,), (5,), integers=True),  # gives tokens again, as a quantiser does
            block("embedding", (5,), (5, 4), integers=True),
            block("other", (5, 4, 2, 2), (5,)),  # a shape that no stitch reaches, but its own predecessor
            block("fc", (5,), (3,)),
        ],
    },
    (7,),
)


@pytest.mark.parametrize(
    ("last", "following", "expected"),
    [
        (None, ("bag", 1), True),
        (None, ("lstm", 1), True),
        (None, ("lstm", 2), False),  # tokens into floats
        (None, ("codes", 2), False),  # tokens, but not those that this block knows
        (("bag", 1), ("lstm", 2), True),
        (("bag", 1), ("codes", 2), False),  # floats into a vocabulary
        (("codes", 1), ("codes", 2), True),
        (("codes", 1), ("lstm", 2), False),  # tokens into floats
        (("lstm", 2), ("codes", 3), False),
        (("codes", 2), ("codes", 3), True),
        (("codes", 3), ("lstm", 3), True),
    ],
)
def test_what_may_follow_what(last: tuple[str, int] | None, following: tuple[str, int], expected: bool) -> None:
    assert connects(BlockRef(*last) if last else None, BlockRef(*following), TEXT) is expected


def test_a_search_over_tokens_proposes_only_what_can_be_joined_and_all_of_it() -> None:
    groups = (tuple(ref for ref in TEXT if ref.index == 1), tuple(ref for ref in TEXT if ref.index > 1))
    found = propose(groups, TEXT, limit=100, rng=generator(0), repeat_groups=True)
    expected = {
        Recipe(chain)
        for size in range(1, 5)
        for chain in itertools.permutations(TEXT, size)
        if all(connects(*pair, TEXT) for pair in itertools.pairwise((None, *chain)))
        and all(a.index < b.index and RANKS[TEXT[a].op] <= RANKS[TEXT[b].op] for a, b in itertools.pairwise(chain))
        and {TEXT[ref].op for ref in chain} >= {"embedding", "fc"}
    }
    assert set(found) == expected
    assert len(found) > 5


def test_the_operations_of_a_cohort_are_those_that_all_networks_have() -> None:
    assert TEXT.operations == {"embedding", "fc"}
    assert TOY.operations == {"conv", "fc"}
    assert make_bank(A="cf", B="f").operations == {"fc"}


def test_networks_of_different_inputs_make_no_bank() -> None:
    with pytest.raises(ValueError, match="takes \\(4,\\), the others \\(5,\\)"):
        BlockBank({"a": [block("fc", (5,), (3,))], "b": [block("fc", (4,), (3,))]}, (5,))
    with pytest.raises(ValueError, match="whole numbers"):
        BlockBank({"a": [block("fc", (5,), (3,))], "b": [block("embedding", (5,), (3,), integers=True)]}, (5,))
