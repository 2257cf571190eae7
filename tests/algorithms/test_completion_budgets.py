"""Candidates within a budget: sizes told before networks are made, and what fits."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from test_completion import Groups, alike, search
from torch import nn
from toy import make_bank, refs

from pfedhr.models import ModelSpec, build
from pfedhr.reassembly import (
    Block,
    BlockBank,
    BlockRef,
    Completions,
    Recipe,
    Sizes,
    assemble,
    complete,
    deposit,
)
from pfedhr.reassembly import walks as walks_module
from pfedhr.reassembly.walks import Walks
from pfedhr.seeding import generator


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
