"""Intervals and the worst tenth, beside the obvious way of computing them."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest

import pfedhr.statistics
from pfedhr.statistics import paired_interval, worst_tenth


def test_equal_differences_have_no_spread() -> None:
    interval = paired_interval([[0.25] * 4] * 3)
    assert (interval.mean, interval.low, interval.high) == (0.25, 0.25, 0.25)


def test_one_difference_is_its_own_interval() -> None:
    interval = paired_interval([[-0.5]])
    assert (interval.mean, interval.low, interval.high) == (-0.5, -0.5, -0.5)


def by_loops(differences: list[list[float]], resamples: int) -> tuple[float, float]:
    """The bootstrap as it is told: draw seeds, draw clients within each, take the mean; sort the means."""
    draw = random.Random(1)
    means: list[float] = []
    for _ in range(resamples):
        rows = draw.choices(differences, k=len(differences))
        means.append(statistics.fmean(value for row in rows for value in draw.choices(row, k=len(row))))
    means.sort()
    return means[int(0.025 * resamples)], means[int(0.975 * resamples)]


def test_the_interval_is_that_of_the_loops() -> None:
    draws = np.random.default_rng(3)
    table = (draws.normal(0, 1, (5, 1)) + draws.normal(0, 1, (5, 12))).tolist()
    interval = paired_interval(table)
    low, high = by_loops(table, 20_000)
    width = high - low
    assert interval.low == pytest.approx(low, abs=0.03 * width)
    assert interval.high == pytest.approx(high, abs=0.03 * width)
    assert interval.mean == pytest.approx(statistics.fmean(value for row in table for value in row))


def test_seeds_are_drawn_whole() -> None:
    # Twenty seeds of -1 or 1, the same for all their clients: the mean of 20 draws deviates by 1 / sqrt(20) = 0.22, where 240
    # independent clients would deviate by 1 / sqrt(240) = 0.06.
    table = [[1.0 if seed % 2 else -1.0] * 12 for seed in range(20)]
    interval = paired_interval(table)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / 20**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("seeds", "apart", "least", "most"), [(20, 1.0, 0.89, 0.98), (5, 1.0, 0.8, 0.93), (5, 0.0, 0.94, 0.999)]
)
def test_intervals_cover_the_truth_as_often_as_is_told(
    monkeypatch: pytest.MonkeyPatch, seeds: int, apart: float, least: float, most: float
) -> None:
    monkeypatch.setattr(pfedhr.statistics, "RESAMPLES", 500)
    draws = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        interval = paired_interval((apart * draws.normal(0, 1, (seeds, 1)) + draws.normal(0, 1, (seeds, 12))).tolist())
        covered += interval.low <= 0 <= interval.high
    assert least <= covered / 400 <= most


@pytest.mark.parametrize("rows", [[], [[]], [[1.0], [1.0, 2.0]], [1.0]])
def test_what_is_no_table_is_refused(rows: list[list[float]]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - numpy says the one, this module the other
        paired_interval(rows)


def test_the_worst_tenth_is_rounded_up() -> None:
    assert worst_tenth([0.5]) == 0.5
    assert worst_tenth([1.0] * 9 + [0.0]) == 0.0
    assert worst_tenth([0.9] * 10 + [0.0, 0.4]) == pytest.approx((0.0 + 0.4) / 2)
    assert worst_tenth([number / 100 for number in range(100)]) == pytest.approx(0.045)
