"""Whether public labels call classes as the clients do, told by what these say on the examples."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

NAMINGS = 100_000
"""How many random namings of the classes stand for all."""
FEWEST_NAMINGS = 720
"""Those of six classes: of fewer, 120 of five, the right one cannot stand out as far as later rounds ask."""
ROUNDING = 1e-9
"""Sums of the same numbers in another order are the same."""


def rarity(said: Tensor, labels: Tensor, rng: torch.Generator) -> float:
    """Return the share of random namings of the classes by which labels fit what is said as well as by their own.

    `said` (n, classes), on the CPU: probabilities. `labels` (n,): how well they fit is the mean probability that examples of a
    label give to the class of its name, every label that occurs weighing alike. Labels of other things only share the numbers
    of classes: their own naming is one as good as any. The share counts that naming among the random ones, so that it is below
    p with a probability of at most p then (B. Phipson and G. K. Smyth, 2010, arXiv 1603.05766).
    """
    classes, labels = said.shape[1], labels.cpu()
    sums = torch.zeros(classes, classes, dtype=torch.float64).index_add_(0, labels, said.double())
    by_label = sums / labels.bincount(minlength=classes).clamp(min=1)[:, None]  # labels x classes
    own = by_label.trace() - ROUNDING
    fitting = sum(int((by_label[some, torch.arange(classes)].sum(1) >= own).sum()) for some in _namings(classes, rng))
    return (1 + fitting) / (1 + NAMINGS)


def _namings(classes: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Yield random orders (some, classes) of the classes, a million numbers at a time at most."""
    left = NAMINGS
    while left:
        some = min(left, max(1, 10**6 // classes))
        yield torch.rand(some, classes, generator=rng).argsort(1)
        left -= some


def called_alike(said: Tensor, labels: Tensor, significance: float, round: int, rng: torch.Generator) -> bool:
    """Return whether labels (n,) are called as what is `said` (n, classes) calls classes, as far as a round may judge.

    Round t asks for a rarity below significance / t(t + 1). These add up to the significance, which bounds the probability that
    labels of other things ever pass, in whatever round. No share is below one of the namings that there are, or were drawn: at
    0.1, six classes have seven rounds to pass and ten have 99, if all occur. Where the labels that occur can be named in fewer
    ways than six of six, as all of five or two of ten can, they pass unasked.
    """
    namings = math.perm(said.shape[1], len(labels.unique()))
    return namings < FEWEST_NAMINGS or rarity(said, labels, rng) < significance / (round * (round + 1))
