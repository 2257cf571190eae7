"""Timing callables side by side in one run, and what a benchmark reports."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """What a measured value should be: at least, or at most, `limit`."""

    limit: float
    at_least: bool

    def met_by(self, value: float) -> bool:
        """Return whether `value` is on the right side of the limit."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:.4g}"


@dataclass(frozen=True)
class Measurement:
    """What was measured: `values` (repeats,), each in `unit`; without a target it is for information only."""

    name: str
    values: Sequence[float]
    unit: str
    target: Target | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the median meets the target; None without one."""
        return self.target.met_by(statistics.median(self.values)) if self.target else None

    def __str__(self) -> str:
        middle, least, most = (f"{value:.4g}" for value in (statistics.median(self.values), min(self.values), max(self.values)))
        wanted = f"target {self.target}" if self.target else "no target"
        outcome = "" if self.met is None else "met" if self.met else "missed"
        span = f"({least} to {most})"
        return f"{self.name + ' ':<28}{middle:>7} {self.unit:<6}{span:<21}{wanted:<17}{outcome:<8}{self.note}".rstrip()


def seconds(action: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def interleaved(*actions: Callable[[], object], repeats: int) -> list[tuple[float, ...]]:
    """Return the seconds (repeats,) of every action, called in turn: A B A B ...

    What else the machine does changes from second to second; in turn it meets all actions alike. A first call of each, which
    finds caches empty, is not counted.
    """
    for action in actions:
        action()
    rows = [tuple(seconds(action) for action in actions) for _ in range(repeats)]
    return list(zip(*rows, strict=True))


def ratios(above: Sequence[float], below: Sequence[float]) -> tuple[float, ...]:
    """Return the ratio of each pair of neighbours in time (repeats,)."""
    return tuple(first / second for first, second in zip(above, below, strict=True))
