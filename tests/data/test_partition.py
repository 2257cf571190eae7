"""Properties of every way of sharing examples out."""

from __future__ import annotations

import math

import pytest
import torch
from bounds import seconds_within
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pfedhr.data import DataError, by_classes, dirichlet, holdout, iid, stratified
from pfedhr.seeding import generator

seeds = st.integers(0, 2**32)
labels_lists = st.lists(st.integers(0, 6), min_size=1, max_size=120)


def balanced(classes: int, each: int) -> Tensor:
    return torch.arange(classes * each) % classes


def assert_disjoint_within(shares: tuple[Tensor, ...], count: int) -> Tensor:
    whole = torch.cat(shares)
    assert whole.dtype == torch.int64
    assert len(whole.unique()) == len(whole)
    assert len(whole) == 0 or (whole.min() >= 0 and whole.max() < count)
    return whole


def same(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


@given(labels_lists, st.integers(1, 20), seeds)
def test_iid_shares_everything_equally(labels: list[int], clients: int, seed: int) -> None:
    if len(labels) < clients:
        with pytest.raises(DataError, match=f"{len(labels)} examples for {clients} clients"):
            iid(torch.tensor(labels), clients, generator(seed))
        return
    shares = iid(torch.tensor(labels), clients, generator(seed))
    assert len(assert_disjoint_within(shares, len(labels))) == len(labels)
    sizes = [len(share) for share in shares]
    assert len(sizes) == clients
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 8), st.integers(1, 25), st.data(), seeds)
def test_by_classes_deals_distinct_balanced_classes(classes: int, clients: int, data: st.DataObject, seed: int) -> None:
    held = data.draw(st.integers(1, classes))
    counts = data.draw(st.lists(st.integers(clients, 3 * clients), min_size=classes, max_size=classes))
    # Labels with gaps between them, so that a class is never confused with its rank.
    labels = torch.cat([torch.full((count,), 3 * label + 1) for label, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=generator(seed, "mix"))]
    shares = by_classes(labels, clients, held, generator(seed))
    assert len(shares) == clients
    assert_disjoint_within(shares, len(labels))
    usage = dict.fromkeys(range(classes), 0)
    sizes: set[int] = set()
    for share in shares:
        present, each = labels[share].unique(return_counts=True)
        assert len(present) == held
        sizes |= set(each.tolist())
        for label in present.tolist():
            usage[(label - 1) // 3] += 1
    assert max(usage.values()) - min(usage.values()) <= 1
    assert min(usage.values()) >= (1 if clients * held >= classes else 0)
    # The largest size that every class can serve, and the same in every slot.
    assert sizes == {min(counts[label] // used for label, used in usage.items() if used)}


@given(st.integers(1, 12), st.integers(1, 5), seeds)
def test_by_classes_gives_the_shard_size_asked_for(clients: int, shard_size: int, seed: int) -> None:
    shares = by_classes(balanced(5, 60), clients, 2, generator(seed), shard_size)
    assert [len(share) for share in shares] == [2 * shard_size] * clients


def test_by_classes_names_the_class_that_runs_out() -> None:
    labels = torch.tensor([0] * 50 + [7] * 9 + [9] * 50)
    with pytest.raises(DataError, match=r"shards of 4 examples: class 7 has 9 examples for 3 clients.*is 3: "):
        by_classes(labels, 3, 3, generator(0), shard_size=4)
    assert {len(share) for share in by_classes(labels, 3, 3, generator(0), shard_size=3)} == {9}
    with pytest.raises(DataError, match=r"class 7 has 9 .* for 10 clients, fewer than one each.*data\.partition = iid or"):
        by_classes(labels, 10, 3, generator(0))


@pytest.mark.parametrize("held", [0, 4])
def test_by_classes_refuses_more_classes_than_there_are(held: int) -> None:
    with pytest.raises(DataError, match=f"{held} classes a client, of 3.*give 1 to 3"):
        by_classes(balanced(3, 10), 2, held, generator(0))


@given(
    st.integers(1, 5),
    st.integers(1, 60),
    st.floats(-6, 6).map(lambda power: 10**power),
    st.integers(1, 12),
    st.integers(0, 100),
    seeds,
)
def test_dirichlet_shares_everything_above_the_minimum(
    classes: int, clients: int, alpha: float, minimum: int, spare: int, seed: int
) -> None:
    labels = torch.arange(clients * minimum + spare) % classes
    shares = dirichlet(labels, clients, alpha, generator(seed), minimum)
    assert len(shares) == clients
    assert len(assert_disjoint_within(shares, len(labels))) == len(labels)
    assert min(len(share) for share in shares) >= minimum


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize("clients", [1, 300, 2000])
def test_dirichlet_ends_in_bounded_time(alpha: float, clients: int) -> None:
    with seconds_within(5):
        shares = dirichlet(balanced(10, 2000), clients, alpha, generator(1))
    assert sorted(torch.cat(shares).tolist()) == list(range(20_000))
    assert min(len(share) for share in shares) >= 10


def test_dirichlet_proportions_have_the_variance_of_the_distribution() -> None:
    # A component of Dirichlet(alpha over n) has mean 1/n and variance (1/n)(1 - 1/n) / (n alpha + 1).
    clients, alpha, draws = 4, 0.5, 300
    labels = torch.zeros(10_000, dtype=torch.int64)
    sizes = torch.tensor([[len(s) for s in dirichlet(labels, clients, alpha, generator(i), 1)] for i in range(draws)])
    proportions = sizes / 10_000
    expected = 0.25 * 0.75 / (clients * alpha + 1)
    assert proportions.mean(0).tolist() == pytest.approx([0.25] * clients, abs=0.06)
    assert proportions.var().item() == pytest.approx(expected, rel=0.15)


def test_dirichlet_small_alpha_gives_a_class_to_one_client_and_large_alpha_to_all_alike() -> None:
    labels = balanced(10, 1000)
    apart = dirichlet(labels, 5, 1e-6, generator(3), 1)
    for label in range(10):
        assert sum((labels[share] == label).sum() >= 990 for share in apart) == 1
    alike = dirichlet(labels, 5, 1e6, generator(3))
    for share in alike:
        assert labels[share].bincount(minlength=10).tolist() == pytest.approx([200] * 10, abs=2)


def test_dirichlet_fills_up_from_the_largest_client() -> None:
    # One class and a tiny alpha: one client has all 100, and gives 10 to each of the other four.
    shares = dirichlet(torch.zeros(100, dtype=torch.int64), 5, 1e-6, generator(0))
    assert sorted(len(share) for share in shares) == [10, 10, 10, 10, 60]


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, math.inf, 1e-7])
def test_dirichlet_refuses_alpha_out_of_range(alpha: float) -> None:
    with pytest.raises(DataError, match=r"alpha = .*give a number from 1e-06 to 1e"):
        dirichlet(balanced(2, 50), 2, alpha, generator(0))


def test_dirichlet_says_why_it_cannot() -> None:
    with pytest.raises(DataError, match=r"99 examples for 10 clients of at least 10.*minimum from 1 to 9"):
        dirichlet(torch.zeros(99, dtype=torch.int64), 10, 0.5, generator(0))


@given(labels_lists, st.floats(0.01, 0.99), seeds)
def test_holdout_follows_the_mix(labels: list[int], share: float, seed: int) -> None:
    tensor, count = torch.tensor(labels), len(labels)
    kept, held = holdout(tensor, share, generator(seed))
    assert len(assert_disjoint_within((kept, held), count)) == count
    assert len(held) == (min(max(round(share * count), 1), count - 1) if count > 1 else 0)
    for label in set(labels):
        exact = len(held) * labels.count(label) / count
        assert abs(int((tensor[held] == label).sum()) - exact) < 1


@given(labels_lists, st.data(), seeds)
def test_stratified_takes_exactly_so_many(labels: list[int], data: st.DataObject, seed: int) -> None:
    count = data.draw(st.integers(0, len(labels)))
    tensor = torch.tensor(labels)
    chosen = stratified(tensor, count, generator(seed))
    assert len(assert_disjoint_within((chosen,), len(labels))) == count
    for label in set(labels):
        assert abs(int((tensor[chosen] == label).sum()) - count * labels.count(label) / len(labels)) < 1


def test_stratified_rounds_the_largest_remainder_up() -> None:
    # 5 of 10: 7 x 0.5 = 3.5, 2 x 0.5 = 1, 1 x 0.5 = 0.5; the tie of remainders goes to the lower label.
    chosen = stratified(torch.tensor([0] * 7 + [1] * 2 + [2]), 5, generator(0))
    assert torch.tensor([0] * 7 + [1] * 2 + [2])[chosen].bincount(minlength=3).tolist() == [4, 1, 0]


def test_stratified_mixes_the_classes() -> None:
    """A server may probe with the first few public examples, so these must not all be of one class."""
    labels = torch.arange(10).repeat_interleave(100)
    assert len(labels[stratified(labels, 500, generator(0))][:50].unique()) > 5


@pytest.mark.parametrize("count", [-1, 4])
def test_stratified_refuses_a_count_out_of_range(count: int) -> None:
    with pytest.raises(DataError, match=f"{count} examples of 3: give a number from 0 to 3"):
        stratified(torch.tensor([0, 1, 1]), count, generator(0))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_holdout_refuses_a_share_out_of_range(share: float) -> None:
    with pytest.raises(DataError, match=f"share of {share}"):
        holdout(torch.tensor([0, 1, 1]), share, generator(0))


LABELS = balanced(10, 100)
FUNCTIONS = {
    "iid": lambda rng: iid(LABELS, 8, rng),
    "by_classes": lambda rng: by_classes(LABELS, 8, 2, rng),
    "dirichlet": lambda rng: dirichlet(LABELS, 8, 0.5, rng),
    "holdout": lambda rng: holdout(LABELS, 0.3, rng),
    "stratified": lambda rng: (stratified(LABELS, 300, rng),),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_equal_seeds_share_alike_and_others_do_not(name: str) -> None:
    function = FUNCTIONS[name]
    assert same(function(generator(5, "partition")), function(generator(5, "partition")))
    assert not same(function(generator(5, "partition")), function(generator(6, "partition")))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_global_randomness_is_left_alone(name: str) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    FUNCTIONS[name](generator(5))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "share_out",
    [
        lambda n: iid(LABELS, n, generator(0)),
        lambda n: by_classes(LABELS, n, 2, generator(0)),
        lambda n: dirichlet(LABELS, n, 0.5, generator(0)),
    ],
)
def test_no_clients_is_refused(share_out: object) -> None:
    with pytest.raises(DataError, match="0 clients: give at least 1"):
        share_out(0)  # type: ignore[operator]
