"""What a number over clients and seeds is worth: intervals of paired differences, and how even clients fare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean, and the ends of its interval."""

    mean: float
    low: float
    high: float


def paired_interval(differences: Sequence[Sequence[float]], level: float = 0.95) -> Interval:
    """Return the mean of paired differences (seeds, clients), and its bootstrap percentile interval.

    Clients of one seed share data and fate, so seeds are drawn with replacement first, then clients within each of them
    (Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8). Equal arguments give equal intervals.
    Few seeds give intervals that are too narrow, and one seed says nothing of other seeds. ValueError for rows of unequal
    length, or none.
    """
    table = np.asarray(differences, dtype=float)
    if table.ndim != 2 or not table.size:
        raise ValueError("one row of differences a seed, of equal and at least one client, was expected")
    seeds, clients = table.shape
    draws = np.random.default_rng(0)
    rows = draws.integers(seeds, size=(RESAMPLES, seeds, 1))
    means = table[rows, draws.integers(clients, size=(RESAMPLES, seeds, clients))].mean(axis=(1, 2))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(table.mean()), float(low), float(high))


def worst_tenth(values: Sequence[float]) -> float:
    """Return the mean of the smallest tenth of `values`, rounded up to whole ones."""
    count = math.ceil(len(values) / 10)
    return math.fsum(sorted(values)[:count]) / count
