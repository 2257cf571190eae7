from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy import make_bank, refs

from pfedhr.reassembly import RULES, BlockBank, BlockRef, Recipe, Rules, Search, Similarity, complete, propose
from pfedhr.reassembly.drawing import distinct_numbers, python_random
from pfedhr.reassembly.recipes import every_group, operation_order
from pfedhr.seeding import generator

# Two networks whose candidates are counted by hand: A = c1 c2 f3 f4, B = c1 c2 c3 f4 f5.
TOY = make_bank(A="ccff", B="cccff")


GROUPS = tuple(map(refs, ("A1 B1", "A2 B2 B3", "A3 B4", "A4 B5")))


def literal_greedy(groups: tuple[tuple[BlockRef, ...], ...], bank: BlockBank) -> set[tuple[BlockRef, ...]]:
    """Algorithm 1 as printed: from each block, one pass over the groups in their order, the first fitting block of each."""
    found = set()
    for start, members in enumerate(groups):
        for seed in members:
            chain, used = [seed], {start}
            for at, others in enumerate(groups):
                fits = (
                    ref
                    for ref in sorted(others, key=lambda ref: (ref.index, ref.owner))
                    if at not in used and ref.index > chain[-1].index and (bank[chain[-1]].op, bank[ref].op) != ("fc", "conv")
                )
                if (ref := next(fits, None)) is not None:
                    chain.append(ref)
                    used.add(at)
            if len(used) == len(groups) and {bank[ref].op for ref in chain} >= bank.operations:
                found.add(tuple(chain))
    return found


def every_chain(groups: tuple[tuple[BlockRef, ...], ...], bank: BlockBank, repeat: bool) -> set[tuple[BlockRef, ...]]:
    """All sequences of blocks, tried one by one against R1 to R4."""
    where = {ref: at for at, members in enumerate(groups) for ref in members}
    backwards = {("fc", "conv"), ("fc", "other"), ("other", "conv")}
    found = set()
    for size in range(1, max(ref.index for ref in bank) + 1):
        for chain in itertools.permutations(bank, size):
            pairs = list(itertools.pairwise(chain))
            if (
                all(second.index > first.index for first, second in pairs)
                and not any((bank[first].op, bank[second].op) in backwards for first, second in pairs)
                and {bank[ref].op for ref in chain} >= bank.operations
                and {where[ref] for ref in chain} == set(range(len(groups)))
                and (repeat or size == len(groups))
            ):
                found.add(chain)
    return found


def test_the_literal_algorithm_depends_on_labels_and_ours_does_not() -> None:
    counts = []
    for order in itertools.permutations(range(4)):
        groups = tuple(GROUPS[at] for at in order)
        counts.append(len(literal_greedy(groups, TOY)))
        assert Search(groups, TOY, RULES, repeat_groups=False).total == 14
        assert Search(groups, TOY, RULES, repeat_groups=True).total == 26
    assert len(literal_greedy(GROUPS, TOY)) == 2
    for order in ((3, 2, 1, 0), (1, 0, 3, 2), (2, 0, 3, 1)):
        assert len(literal_greedy(tuple(GROUPS[at] for at in order), TOY)) == 0
    assert len(set(counts)) > 1


def test_the_toys_long_chains_are_twelve() -> None:
    recipes = propose(GROUPS, TOY, limit=100, rng=generator(0), repeat_groups=True)
    assert sorted(len(recipe.blocks) for recipe in recipes) == [4] * 14 + [5] * 12


@given(
    st.lists(st.text("cof", min_size=1, max_size=3), min_size=1, max_size=3),
    st.lists(st.integers(0, 2), min_size=9, max_size=9),
    st.booleans(),
)
def test_the_search_finds_exactly_what_trying_everything_finds(rows: list[str], labels: list[int], repeat: bool) -> None:
    bank = make_bank(**dict(zip("ABC", rows, strict=False)))
    placed = [tuple(ref for ref, label in zip(bank, labels, strict=False) if label == at) for at in range(3)]
    groups = tuple(members for members in placed if members)
    found = propose(groups, bank, limit=10_000, rng=generator(0), repeat_groups=repeat)
    assert len(set(found)) == len(found)
    assert {recipe.blocks for recipe in found} == every_chain(groups, bank, repeat)


def test_a_sample_is_of_distinct_valid_recipes_and_named_by_its_generator() -> None:
    everything = set(propose(GROUPS, TOY, limit=100, rng=generator(0)))
    samples = [propose(GROUPS, TOY, limit=5, rng=generator(seed)) for seed in range(400)]
    assert all(len(set(sample)) == 5 and set(sample) <= everything for sample in samples)
    assert samples[0] == propose(GROUPS, TOY, limit=5, rng=generator(0))
    counts = [sum(recipe in sample for sample in samples) for recipe in everything]
    # Each of 14 is in 5 of 14 samples: 400 * 5 / 14 = 143, deviation sqrt(400 * 5/14 * 9/14) = 9.6
    assert all(abs(count - 143) < 5 * 9.6 for count in counts)


def test_the_order_of_groups_and_clients_leaves_a_sample_unchanged() -> None:
    reordered = make_bank(B="cccff", A="ccff")
    assert propose(GROUPS[::-1], reordered, limit=5, rng=generator(7)) == propose(GROUPS, TOY, limit=5, rng=generator(7))


def test_a_search_too_large_to_list_is_counted_and_sampled() -> None:
    owners = dict.fromkeys("ABCD", "c" * 15 + "f" * 15)
    bank = make_bank(**owners)
    groups = (tuple(ref for ref in bank if ref.index <= 15), tuple(ref for ref in bank if ref.index > 15))
    search = Search(groups, bank, RULES, repeat_groups=True)
    # Any non-empty set of 15 indices, each from any of 4 networks, in both halves
    assert search.total == (5**15 - 1) ** 2 > 2**64
    recipes = propose(groups, bank, limit=16, rng=generator(0), repeat_groups=True)
    assert len(set(recipes)) == 16


@pytest.fixture
def shallow() -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 250)
    yield
    sys.setrecursionlimit(before)


def test_networks_may_be_deeper_than_pythons_stack(shallow: None) -> None:
    depth = 120
    bank = make_bank(A="c" * depth)
    groups = tuple(tuple(ref for ref in bank if ref.index % 2 == at) for at in (0, 1))
    # Any set of indices but those all even or all odd
    assert Search(groups, bank, RULES, repeat_groups=True).total == 2**depth - 2 ** (depth // 2 + 1) + 1
    assert len(propose(groups, bank, limit=2, rng=generator(0), repeat_groups=True)) == 2
    twins = make_bank(A="c" * depth, B="c" * depth)
    pairs = tuple(tuple(ref for ref in twins if ref.index == at + 1) for at in range(depth))
    alike = Similarity(tuple(twins), torch.ones(2 * depth, 2 * depth))
    found = complete("A", pairs, twins, alike, limit=2, rng=generator(0))
    assert found.total == 2 ** (depth - 1)
    assert {len(recipe.blocks) for recipe in found.recipes} == {depth}


def test_chains_are_reached_by_number_and_numbers_beyond_them_are_refused() -> None:
    search = Search(GROUPS, TOY, RULES, repeat_groups=False)
    listed = [search.chain(number).blocks for number in range(search.total)]
    assert len(set(listed)) == search.total == 14
    assert listed == sorted(listed, key=lambda blocks: [ref.place for ref in blocks])
    for number in (-1, 14):
        with pytest.raises(IndexError, match="no chain"):
            search.chain(number)


def test_distinct_numbers_are_all_there_are_in_an_order_that_is_drawn() -> None:
    first, second = (list(distinct_numbers(20, python_random(generator(seed)))) for seed in (0, 1))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    assert first == list(distinct_numbers(20, python_random(generator(0))))


def test_nothing_fits_gives_nothing() -> None:
    bank = make_bank(A="cf", B="fc")
    assert propose((refs("A2"), refs("A1 B1 B2")), bank, rng=generator(0))
    assert not propose((refs("B1"), refs("B2"), refs("A1 A2")), bank, rng=generator(0))


def test_rules_can_be_left_out_and_added_but_not_the_one_that_ends_the_search() -> None:
    def two_sources(last: BlockRef, following: BlockRef, bank: BlockBank) -> bool:
        return last.owner != following.owner

    stricter = Rules(steps=(*RULES.steps, two_sources))
    found = propose(GROUPS, TOY, limit=100, rng=generator(0), rules=stricter)
    assert found
    assert all(first.owner != second.owner for recipe in found for first, second in itertools.pairwise(recipe.blocks))
    with pytest.raises(ValueError, match="R1"):
        propose(GROUPS, TOY, rng=generator(0), rules=Rules((operation_order,), (every_group,)))


def test_a_recipe_is_a_value() -> None:
    recipe = Recipe(refs("A1 B2"))
    assert recipe == Recipe(refs("A1 B2"))
    assert {recipe: 1}[Recipe(refs("A1 B2"))] == 1
    assert str(recipe) == "A.1 B.2"
    assert recipe.owners == {"A", "B"}


def test_more_groups_than_the_deepest_network_has_blocks_are_found_hopeless_at_once() -> None:
    bank = make_bank(**dict.fromkeys("ABCDEF", "ccccfffff"))
    members = list(bank)
    groups = tuple(tuple(members[at::18]) for at in range(18))
    assert Search(groups, bank, RULES, repeat_groups=False).total == 0
    assert len(Search(groups, bank, RULES, repeat_groups=False)._counts) < 100
