from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toy import make_bank, refs

from pfedhr.models import ModelSpec, build
from pfedhr.reassembly import (
    Block,
    BlockBank,
    BlockRef,
    CompletionRules,
    Completions,
    Recipe,
    Similarity,
    Sizes,
    assemble,
    complete,
    deposit,
)
from pfedhr.reassembly import walks as walks_module
from pfedhr.reassembly.operations import RANKS
from pfedhr.reassembly.walks import Walks
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


def test_a_search_too_large_to_list_is_counted_and_sampled() -> None:
    bank = make_bank(**dict.fromkeys("ABCD", "c" * 34))
    found = search(
        "A", (tuple(ref for ref in bank if ref.index <= 1), tuple(ref for ref in bank if ref.index > 1)), bank, limit=16
    )
    # Each place must have its own index, each from any of four networks.
    assert found.total == 4**33 > 2**64
    assert len(set(found.recipes)) == 16


def test_what_cannot_be_joined_begins_and_follows_nothing() -> None:
    def block(op: str, source: tuple[int, ...], target: tuple[int, ...], *, integers: bool = False) -> Block:
        return Block((), op, source, target, nn.Identity(), integers)

    bank = BlockBank(
        {
            "A": [block("embedding", (7,), (8,), integers=True), block("fc", (8,), (3,))],
            "B": [block("embedding", (7,), (7, 8), integers=True), block("recurrent", (7, 8), (8,)), block("fc", (8,), (3,))],
        },
        (7,),
    )
    # B's recurrent block is in the group of A's first, but reads no tokens.
    for seed in range(8):
        found = search("A", (refs("A1 B1 B2"), refs("A2 B3")), bank, seed)
        assert {recipe.blocks[0] for recipe in found.recipes} <= set(refs("A1 B1"))
        assert found.total == 2


IMAGE = (3, 32, 32)


@pytest.fixture(scope="module")
def networks() -> BlockBank:
    models = {name: build(ModelSpec(name, IMAGE, 10), 0) for name in ("cnn1", "cnn3", "resnet", "mlp")}
    return deposit(models, torch.zeros(1, *IMAGE))


@pytest.fixture(scope="module")
def three_groups(networks: BlockBank) -> Groups:
    return tuple(tuple(ref for ref in networks if low <= ref.index < high) for low, high in ((1, 2), (2, 4), (4, 99)))


@pytest.mark.parametrize("kind", ["light", "full"])
@pytest.mark.parametrize("layers", [1, 2])
def test_sizes_are_known_before_a_network_is_made(networks: BlockBank, three_groups: Groups, kind: str, layers: int) -> None:
    sizes = Sizes(networks, kind, layers)
    found = complete("cnn1", three_groups, networks, alike(networks), limit=6, rng=generator(3))
    others = [Recipe(networks.chain(owner)) for owner in networks.owners]
    headless = [Recipe((BlockRef("cnn3", 2), BlockRef("cnn3", 4)))]
    before = torch.random.get_rng_state()
    counted = [sizes.whole(recipe) for recipe in (*found.recipes, *others, *headless)]
    assert torch.equal(torch.random.get_rng_state(), before)
    made = [assemble(recipe, networks, kind, layers) for recipe in (*found.recipes, *others, *headless)]
    assert counted == [sum(value.numel() for value in model.state_dict().values()) for model in made]


def test_a_tensor_of_two_names_counts_once() -> None:
    layer = nn.Linear(4, 4)
    tied = nn.Sequential(layer, nn.ReLU(), layer)
    assert Block((), "fc", (4,), (4,), tied).size == 20


@pytest.mark.parametrize("budget", [0.1, 0.5, 1.0, 3.0, 50.0])
def test_a_budget_keeps_exactly_what_fits(networks: BlockBank, three_groups: Groups, budget: float) -> None:
    sizes = Sizes(networks)
    own = sizes.whole(Recipe(networks.chain("cnn1")))
    most = (1 + budget) * own

    def found(limit: int, **options: object) -> Completions:
        return complete("cnn1", three_groups, networks, alike(networks), limit=limit, rng=generator(1), **options)

    everything = found(100_000)
    fitting = [recipe for recipe in everything.recipes if sizes.whole(recipe) <= most]
    within = found(100_000, sizes=sizes, most=most)
    assert within.total == everything.total
    if fitting:
        assert within.fits
        assert list(within.recipes) == fitting
        few = found(3, sizes=sizes, most=most)
        assert set(few.recipes) <= set(fitting)
        assert len(few.recipes) == min(3, len(fitting))
    else:
        assert not within.fits
        assert list(within.recipes) == [min(everything.recipes, key=sizes.whole)]


def test_a_budget_that_nothing_keeps_to_gives_the_smallest(networks: BlockBank, three_groups: Groups) -> None:
    sizes = Sizes(networks)
    everything = complete("resnet", three_groups, networks, alike(networks), limit=10**6, rng=generator(0))
    least = min(map(sizes.whole, everything.recipes))
    for most, fits in ((10.0, False), (least - 1.0, False), (float(least), True)):
        found = complete("resnet", three_groups, networks, alike(networks), rng=generator(0), sizes=sizes, most=most)
        assert found.fits is fits
        assert {sizes.whole(recipe) for recipe in found.recipes} == {least}


@pytest.mark.parametrize("grain", [8, 64, 10**9])
def test_walks_under_a_budget_beside_trying_everything(
    networks: BlockBank, grain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walks_module, "GRAIN", grain)
    sizes = Sizes(networks)
    levels = [[ref for ref in networks if ref.index == index] for index in (1, 2, 3, 4)]

    def free(place: int, last: BlockRef | None) -> list[BlockRef]:
        return levels[place]

    excluded = networks.chain("cnn1")
    every = [Recipe(blocks) for blocks in itertools.product(*levels) if blocks != excluded]
    ordered = sorted(map(sizes.whole, every))
    for most in map(
        float, (ordered[0] - 1, ordered[0], ordered[len(every) // 4], ordered[len(every) // 2], ordered[-1], math.inf)
    ):
        walks = Walks(4, free, excluded, sizes, most)
        listed = [walks.chain(number) for number in range(walks.total)]
        fitting = [recipe for recipe in every if sizes.whole(recipe) <= most]
        assert len(set(listed)) == len(listed)
        assert set(fitting) <= set(listed) <= set(every)
        slack = 0 if grain == 10**9 or math.isinf(most) else (len(levels) + 2) * max(1, most // grain)
        assert all(sizes.whole(recipe) <= most + slack for recipe in listed)
        if not slack:
            assert listed == fitting
        with pytest.raises(IndexError, match="no chain"):
            walks.chain(walks.total)
    assert Walks(4, free, excluded, sizes).smallest() == min(every, key=sizes.whole)
