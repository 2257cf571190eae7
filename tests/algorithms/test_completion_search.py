"""The search of completed candidates beside trying everything."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from test_completion import GROUPS, TOY, Groups, search
from toy import make_bank

from pfedhr.reassembly import (
    BlockBank,
    BlockRef,
    CompletionRules,
    Recipe,
)
from pfedhr.reassembly.operations import RANKS


def literal(owner: str, anchor: BlockRef, groups: Groups, bank: BlockBank, rules: CompletionRules) -> set[tuple[BlockRef, ...]]:
    """The search as the paper prints it, all tuples tried one by one; then from an earlier stop until something is left."""
    chain = bank.chain(owner)
    group_of = {ref: members for members in groups for ref in members}
    levels: list[Sequence[BlockRef]] = [[anchor]]
    q = anchor.index
    for own in chain[1:]:
        fitting = [ref for ref in group_of[own] if ref.index > q or not rules.increasing]
        if not fitting:
            break
        levels.append(fitting)
        q = min(ref.index for ref in fitting)

    def in_order(first: BlockRef, second: BlockRef) -> bool:
        if not rules.operation_order or (first.owner, first.index + 1) == second:
            return True
        return RANKS[bank[first].op] <= RANKS[bank[second].op]

    for stop in range(len(levels), 0, -1):
        found = set()
        for head in itertools.product(*levels[:stop]):
            whole = head + (chain[stop:] if rules.complete else ())
            rising = all(a.index < b.index for a, b in itertools.pairwise(head))
            if (rising or not rules.increasing) and all(itertools.starmap(in_order, itertools.pairwise(whole))):
                found.add(whole)
        if found:
            return found
    return set()


RULES = st.builds(CompletionRules, increasing=st.booleans(), complete=st.booleans(), operation_order=st.booleans())


@given(
    st.lists(st.text("cof", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(0, 2), min_size=12, max_size=12),
    RULES,
    st.integers(0, 3),
)
def test_the_search_finds_exactly_what_trying_everything_finds(
    rows: list[str], labels: list[int], rules: CompletionRules, seed: int
) -> None:
    bank = make_bank(**dict(zip("ABC", rows, strict=False)))
    placed = [tuple(ref for ref, label in zip(bank, labels, strict=False) if label == at) for at in range(3)]
    groups = tuple(members for members in placed if members)
    for owner in bank.owners:
        found = search(owner, groups, bank, seed, rules)
        assert found.recipes
        expected = literal(owner, found.recipes[0].blocks[0], groups, bank, rules)
        assert {recipe.blocks for recipe in found.recipes} == expected
        assert found.total == len(found.recipes) == len(expected)
        own = Recipe(bank.chain(owner))
        without = search(owner, groups, bank, seed, rules, exclude_own=True)
        assert set(without.recipes) == set(found.recipes) - {own}
        if rules.complete:
            assert all(len(recipe.blocks) == len(own.blocks) for recipe in found.recipes)


def test_a_sample_is_of_distinct_candidates_each_as_likely_as_any_other() -> None:
    everything = {recipe for seed in range(8) for recipe in search("A", GROUPS, TOY, seed, exclude_own=True).recipes}
    assert len(everything) == 6 + 7
    samples = [search("A", GROUPS, TOY, seed, limit=3, exclude_own=True) for seed in range(300)]
    assert all(len(set(one.recipes)) == 3 and set(one.recipes) <= everything and one.total == 7 for one in samples)
    assert samples[0] == search("A", GROUPS, TOY, 0, limit=3, exclude_own=True)
    for anchor, chains in (("A", 6), ("B", 7)):
        drawn = [one.recipes for one in samples if one.recipes[0].blocks[0].owner == anchor]
        counts = [sum(recipe in sample for sample in drawn) for recipe in everything if recipe.blocks[0].owner == anchor]
        share = 3 / chains
        deviation = math.sqrt(len(drawn) * share * (1 - share))
        assert len(counts) == chains
        assert all(abs(count - len(drawn) * share) < 5 * deviation for count in counts)


def test_the_order_of_groups_and_clients_changes_nothing() -> None:
    reordered = make_bank(B="cccff", A="ccff")
    groups = tuple(members[::-1] for members in GROUPS[::-1])
    for seed in range(4):
        assert search("A", groups, reordered, seed, limit=3) == search("A", GROUPS, TOY, seed, limit=3)
