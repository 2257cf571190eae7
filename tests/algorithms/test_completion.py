from __future__ import annotations

import torch
from toy import make_bank, refs

from pfedhr.reassembly import (
    BlockBank,
    BlockRef,
    CompletionRules,
    Completions,
    Recipe,
    Similarity,
    complete,
)
from pfedhr.seeding import generator

Groups = tuple[tuple[BlockRef, ...], ...]


def alike(bank: BlockBank) -> Similarity:
    """All blocks equally similar."""
    return Similarity(tuple(bank), torch.ones(len(bank), len(bank)))


def search(
    owner: str,
    groups: Groups,
    bank: BlockBank,
    seed: int = 0,
    rules: CompletionRules | None = None,
    limit: int = 10_000,
    exclude_own: bool = False,
) -> Completions:
    return complete(owner, groups, bank, alike(bank), rules=rules, limit=limit, rng=generator(seed), exclude_own=exclude_own)


# Two networks whose candidates are counted by hand: A = c1 c2 f3 f4, B = c1 c2 c3 f4 f5.
TOY = make_bank(A="ccff", B="cccff")


GROUPS = tuple(map(refs, ("A1 B1", "A2 B2 B3", "A3 B4", "A4 B5")))


def test_the_golden_example_of_the_search() -> None:
    # A: {A2, B2, B3} x {A3, B4} x {A4, B5} in rising order; B: its own group 2 twice, so B3 is fixed.
    for owner, count in (("A", 7), ("B", 2)):
        for seed in range(8):
            found = search(owner, GROUPS, TOY, seed)
            anchors = {recipe.blocks[0] for recipe in found.recipes}
            assert found.total == len(found.recipes) == len(set(found.recipes)) == count
            assert len(anchors) == 1
            assert anchors <= set(refs("A1 B1"))
    for seed in range(8):
        found = search("B", GROUPS, TOY, seed)
        anchor = found.recipes[0].blocks[0]
        assert {recipe.blocks for recipe in found.recipes} == {
            (anchor, *refs("A2 B3 B4 B5")),
            (anchor, *refs("B2 B3 B4 B5")),
        }


def test_each_block_of_the_group_is_the_anchor_as_often_as_any_other() -> None:
    anchors = [search("A", GROUPS, TOY, seed).recipes[0].blocks[0] for seed in range(200)]
    # Each of two in half of 200: 100, deviation sqrt(200 / 4) = 7.1
    assert set(anchors) == set(refs("A1 B1"))
    assert abs(anchors.count(BlockRef("A", 1)) - 100) < 5 * 7.1


def test_where_no_block_is_left_the_own_blocks_complete() -> None:
    # The anchor's index is 2, so that the third place reaches 4, and group 4 has nothing beyond it.
    groups = tuple(map(refs, ("A1 B2", "A2 B3 B1", "A3 B4", "A4", "B5")))
    completed = set()
    for seed in range(12):
        found = search("A", groups, TOY, seed)
        if found.recipes[0].blocks[0] == BlockRef("B", 2):
            completed |= {recipe.blocks for recipe in found.recipes}
            assert found.total == 1
            short = search("A", groups, TOY, seed, CompletionRules(complete=False))
            assert [recipe.blocks for recipe in short.recipes] == [refs("B2 B3 B4")]
    assert completed == {refs("B2 B3 B4 A4")}


def test_a_prefix_that_blocks_a_level_is_dropped_and_not_completed() -> None:
    # Nothing of group 4 has an index above that of B5, though it has for A3 and B3.
    groups = tuple(map(refs, ("A1 B1", "A2 B2", "A3 B3 B5", "A4 B4")))
    bank = make_bank(A="cccc", B="ccccc")
    found = search("A", groups, bank)
    assert found.total == 8
    assert not any(BlockRef("B", 5) in recipe.blocks for recipe in found.recipes)


def test_the_own_chain_is_among_the_candidates_if_it_may_be_and_told_if_it_may_not() -> None:
    own = Recipe(TOY.chain("A"))
    for seed in range(8):
        kept, left_out = search("A", GROUPS, TOY, seed), search("A", GROUPS, TOY, seed, exclude_own=True)
        starts_own = kept.recipes[0].blocks[0] == BlockRef("A", 1)
        assert (own in kept.recipes) is starts_own
        assert left_out.own is starts_own
        assert kept.own is False
        assert set(left_out.recipes) == set(kept.recipes) - {own}
        assert left_out.total == kept.total == 7


def test_anchors_may_be_the_most_similar_or_the_smallest() -> None:
    bank = make_bank(A="cc", B="cc", C="ccc")
    groups = (refs("A1 B1 C2"), refs("A2 B2 C1 C3"))
    values = torch.eye(len(bank))
    order = list(bank)
    for ref, value in (("B1", 0.3), ("C2", 0.8), ("A1", 2.0), ("C1", 1.9)):
        values[order.index(refs("A1")[0]), order.index(refs(ref)[0])] = value  # C1 is nearer, but of another group
    similarity = Similarity(tuple(bank), values)

    def anchors(choice: str, groups: Groups = groups) -> set[BlockRef]:
        rules = CompletionRules(anchor=choice)
        found = (complete("A", groups, bank, similarity, rules=rules, rng=generator(seed)) for seed in range(20))
        return {recipe.blocks[0] for one in found for recipe in one.recipes}

    assert anchors("random") == set(refs("A1 B1 C2"))
    assert anchors("similar") == set(refs("C2"))
    assert anchors("smallest") == set(refs("A1 B1"))
    # Itself where the group holds no other.
    assert anchors("similar", (refs("A1"), refs("A2 B1 B2 C1 C2 C3"))) == set(refs("A1"))


def test_without_the_order_of_indices_every_combination_is_a_candidate() -> None:
    rules = CompletionRules(increasing=False, operation_order=False)
    found = search("A", GROUPS, TOY, rules=rules)
    assert found.total == len(set(found.recipes)) == 3 * 2 * 2
    twice = search("B", GROUPS, TOY, rules=rules)
    assert twice.total == 3 * 3 * 2 * 2
    assert any(recipe.blocks[1] == recipe.blocks[2] for recipe in twice.recipes)  # two copies of one block


def test_no_fully_connected_block_comes_before_a_convolution_unless_allowed() -> None:
    bank = make_bank(A="cfff", B="ccccc")
    groups = (refs("A1 B1"), refs("A2 B2"), refs("A3 B3"), refs("A4 B4 B5"))
    ordered = search("A", groups, bank)
    free = search("A", groups, bank, rules=CompletionRules(operation_order=False))
    assert set(ordered.recipes) < set(free.recipes)
    for recipe in free.recipes:
        operations = "".join(bank[ref].op[0] for ref in recipe.blocks)
        assert ("fc" not in operations) is (recipe in ordered.recipes)


def test_where_order_leaves_no_candidate_own_blocks_follow_from_an_earlier_place() -> None:
    # Behind the anchor B2 group 2 has C's fc only, and behind that group 3 has D's convolution only, which may not follow it.
    bank = make_bank(A="cff", B="cc", C="ccff", D="ccccf")
    groups = (refs("A1 B2"), refs("A2 C3"), refs("A3 D4"), refs("B1 C1 D1 C2 D2 D3 C4 D5"))
    found = {search("A", groups, bank, seed).recipes for seed in range(8)}
    assert {tuple(recipe.blocks for recipe in recipes) for recipes in found} == {
        (refs("A1 A2 A3"),),
        (refs("B2 C3 A3"),),
    }


def test_own_blocks_that_complete_keep_to_the_order_of_operations_too() -> None:
    bank = make_bank(A="ccc", B="cc", C="ccf")
    free = CompletionRules(operation_order=False)
    # Behind C's fc group 3 has nothing left, and A's own third block is a convolution.
    groups = (refs("A1 B2"), refs("A2 C3"), refs("A3"), refs("B1 C1 C2"))

    def chains(groups: Groups, rules: CompletionRules | None = None) -> set[tuple[BlockRef, ...]]:
        return {recipe.blocks for seed in range(8) for recipe in search("A", groups, bank, seed, rules).recipes}

    assert chains(groups) == {refs("A1 A2 A3"), refs("B2 A2 A3")}
    assert refs("B2 C3 A3") in chains(groups, free)
    # An fc that no own block may follow is no anchor.
    groups = (refs("A1 C3"), refs("A2"), refs("A3"), refs("B1 B2 C1 C2"))
    assert chains(groups) == {refs("A1 A2 A3")}
    assert chains(groups, free) == {refs("A1 A2 A3"), refs("C3 A2 A3")}
