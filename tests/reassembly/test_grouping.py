from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from pfedhr.models import ModelSpec, build
from pfedhr.reassembly import BlockRef, Similarity, block_similarity, deposit, group, profile
from pfedhr.reassembly.grouping import distances
from pfedhr.seeding import generator


def random_similarity(blocks: int, seed: int) -> Similarity:
    values = torch.rand(blocks, blocks, generator=generator(seed, "similarity")) * 2
    values = (values + values.T) / 2
    values.fill_diagonal_(2.0)
    return Similarity(tuple(BlockRef("abc"[at % 3], at // 3 + 1) for at in range(blocks)), values)


def cost(between: np.ndarray, medoids: tuple[int, ...]) -> float:
    return between[:, list(medoids)].min(axis=1).sum()


def test_distances_have_their_known_values() -> None:
    values = torch.tensor([[2.0, 1.0, 0.5, 0.4], [1.0, 2.0, 0.0, 2.0], [0.5, 0.0, 2.0, 0.25], [0.6, 2.0, 0.25, 2.0]])
    expected = [[0.5, 1, 2, 2], [1, 0.5, 1e6, 0.5], [2, 1e6, 0.5, 4], [2, 0.5, 4, 0.5]]  # 0.4 and 0.6 count as their mean
    refs = tuple(BlockRef("a", at) for at in (1, 2, 3, 4))
    assert distances(Similarity(refs, values)).tolist() == expected


@given(st.integers(3, 9), st.integers(0, 10_000), st.integers(1, 9))
@example(9, 328, 3)  # two groups of two, each with two best centres: a swap does improve on the wrong choice of them
def test_groups_are_a_partition_that_no_swap_of_a_medoid_improves(blocks: int, seed: int, count: int) -> None:
    similarity = random_similarity(blocks, seed)
    count = min(count, blocks)
    groups = group(similarity, count)
    assert len(groups) == count
    assert sorted(ref for members in groups for ref in members) == sorted(similarity.refs)
    between = distances(similarity) - 0.5
    np.fill_diagonal(between, 0)
    at = {ref: place for place, ref in enumerate(similarity.refs)}
    # A group may have several best centres. From one choice of them, no exchange of a centre for another block lowers the cost.
    centres = [best_centres(between, [at[ref] for ref in members]) for members in groups]
    assert any(no_swap_improves(between, medoids) for medoids in itertools.product(*centres))


def best_centres(between: np.ndarray, members: list[int]) -> list[int]:
    costs = [between[members, place].sum() for place in members]
    return [place for place, cost in zip(members, costs, strict=True) if cost <= min(costs) + 1e-9]


def no_swap_improves(between: np.ndarray, medoids: tuple[int, ...]) -> bool:
    others = [place for place in range(len(between)) if place not in medoids]
    swaps = [tuple({*medoids} - {old} | {new}) for old, new in itertools.product(medoids, others)]
    return all(cost(between, medoids) <= cost(between, swap) + 1e-9 for swap in swaps)


def test_twin_layers_share_a_group() -> None:
    model = build(ModelSpec("cnn3", (1, 12, 12), 3), 0)
    probe = torch.randn(16, 1, 12, 12, generator=generator(0, "probe"))
    bank = deposit({"a": model, "b": model}, probe)
    similarity = block_similarity(profile(bank, probe))
    for count in (2, 4, 9):
        where = {ref: at for at, members in enumerate(group(similarity, count)) for ref in members}
        assert all(where[BlockRef("a", index)] == where[BlockRef("b", index)] for index in range(1, 10))


def test_neither_names_nor_their_order_matter() -> None:
    models = {name: build(ModelSpec("cnn1", (1, 12, 12), 3), 0, name) for name in "abc"}
    probe = torch.randn(16, 1, 12, 12, generator=generator(0, "probe"))

    def grouped(order: str, names: str) -> set[frozenset[BlockRef]]:
        bank = deposit({name: models[model] for model, name in zip(order, names, strict=True)}, probe)
        groups = group(block_similarity(profile(bank, probe)), 4)
        called = dict(zip(names, order, strict=True))
        return {frozenset(BlockRef(called[ref.owner], ref.index) for ref in members) for members in groups}

    expected = grouped("abc", "abc")
    assert grouped("cab", "cab") == expected
    assert grouped("abc", "zxy") == expected


def test_groups_come_by_mean_index_then_smallest_member() -> None:
    groups = group(random_similarity(9, 3), 4)
    keys = [(sum(ref.index for ref in members) / len(members), members[0].index) for members in groups]
    assert keys == sorted(keys)
    assert all(list(members) == sorted(members, key=lambda ref: (ref.index, ref.owner)) for members in groups)


def test_a_similarity_that_is_not_a_number_is_refused_by_the_names_of_its_blocks() -> None:
    similarity = random_similarity(6, 0)
    similarity.values[2, 4] = torch.nan
    with pytest.raises(ValueError, match=r"of blocks c\.1 and b\.2 is not a number"):
        group(similarity, 2)


@pytest.mark.parametrize("count", [0, 7])
def test_more_groups_than_blocks_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} groups of 6 blocks"):
        group(random_similarity(6, 0), count)
