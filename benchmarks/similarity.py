"""The similarity of all pairs of blocks at once, against the obvious loop over the pairs.

Both are given the activations of the four CNNs at 3x32x32 (27 blocks) on a probe of 512 images. The networks' forward pass,
which both would need alike, is in neither time. The product's time is that of cutting the networks (`deposit`), of the Gram
matrices (`profile`) and of `block_similarity`.

The loop would take minutes, so it runs over a part of the 378 unordered pairs, and its time is multiplied up. The pairs form a
ring through all blocks in a fixed random order: every block is in two of them, as it is in 28 of all, so that blocks with
many features, which take nearly all the time, weigh in the part as in the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from benchmarks.timing import Measurement, Target, interleaved, ratios
from pfedhr.models import ModelSpec, build
from pfedhr.reassembly import BlockBank, BlockRef, Similarity, block_similarity, deposit, profile
from pfedhr.reassembly.blocks import flatten_for
from pfedhr.seeding import generator

NETWORKS = ("cnn1", "cnn2", "cnn3", "cnn4")
SHAPE = (3, 32, 32)
SAMPLES = 512
REPEATS = 3
TOLERANCE = 1e-3


class Recall(nn.Module):
    """Gives activations (samples, ...) that were computed before, whatever enters."""

    def __init__(self, activations: Tensor) -> None:
        super().__init__()
        self.activations = activations

    def forward(self, _: Tensor) -> Tensor:
        """Return the activations (samples, ...)."""
        return self.activations


@dataclass(frozen=True)
class Seen:
    """What entered and what left a block on the probe, each (samples, ...)."""

    entering: Tensor
    leaving: Tensor


def measure() -> Iterator[Measurement]:
    """Yield how many times faster the product is than the loop, if their values agree."""
    models = {name: build(ModelSpec(name, SHAPE, 10), 0, name) for name in NETWORKS}
    probe = torch.randn(SAMPLES, *SHAPE, generator=generator(0, "probe"))
    seen = _activations(deposit(models, probe), probe)
    pairs = _ring(list(seen))
    fast: list[Similarity] = []
    slow: list[list[float]] = []

    def at_once() -> None:
        bank = deposit(models, probe)
        chains = {owner: bank.chain(owner) for owner in bank.owners}
        recalled = {
            owner: [replace(bank[ref], module=Recall(seen[ref].leaving)) for ref in chain] for owner, chain in chains.items()
        }
        fast.append(block_similarity(profile(BlockBank(recalled, SHAPE), probe)))

    def pair_by_pair() -> None:
        slow.append([_slow_similarity(seen[first], seen[second]) for first, second in pairs])

    product, part = interleaved(at_once, pair_by_pair, repeats=REPEATS)
    difference = _largest_difference(fast[-1], pairs, slow[-1])
    if difference > TOLERANCE:
        raise RuntimeError(f"the two ways differ by {difference:.2g}: a comparison of their times would mean nothing")
    every = len(seen) * (len(seen) + 1) // 2
    note = f"loop timed on {len(pairs)} of {every} pairs, times {every / len(pairs):g}; values agree to {difference:.0e}"
    times = tuple(ratio * every / len(pairs) for ratio in ratios(part, product))
    yield Measurement("similarity", times, "times", Target(100, at_least=True), note)


def _activations(bank: BlockBank, probe: Tensor) -> dict[BlockRef, Seen]:
    """Run every network on the probe in eval mode. What leaves a block is, as one tensor, what enters the next."""
    seen: dict[BlockRef, Seen] = {}
    with torch.no_grad():
        for owner in bank.owners:
            values = probe
            for ref in bank.chain(owner):
                left = bank[ref].module.eval()(flatten_for(bank[ref], values))
                seen[ref] = Seen(values, left)
                values = left
    return seen


def _ring(refs: Sequence[BlockRef]) -> list[tuple[BlockRef, BlockRef]]:
    """Return as many pairs as blocks, every block in two of them."""
    order = torch.randperm(len(refs), generator=generator(0, "ring")).tolist()
    return [(refs[first], refs[second]) for first, second in zip(order, [*order[1:], order[0]], strict=True)]


def _slow_similarity(first: Seen, second: Seen) -> float:
    return (_slow_cka(first.entering, second.entering) + _slow_cka(first.leaving, second.leaving)).item()


def _slow_cka(x: Tensor, y: Tensor) -> Tensor:
    return _slow_hsic(x, y) / (_slow_hsic(x, x) * _slow_hsic(y, y)).sqrt()


def _slow_hsic(x: Tensor, y: Tensor) -> Tensor:
    """Return the HSIC of two sets of activations (samples, ...) as one writes it down; the factor cancels out in the CKA."""
    x, y = x.flatten(1), y.flatten(1)
    x, y = x - x.mean(0), y - y.mean(0)
    return ((x @ x.T) * (y @ y.T)).sum()


def _largest_difference(fast: Similarity, pairs: Sequence[tuple[BlockRef, BlockRef]], slow: Sequence[float]) -> float:
    at = {ref: row for row, ref in enumerate(fast.refs)}
    found = [fast.values[at[first], at[second]].item() for first, second in pairs]
    return max(abs(one - other) for one, other in zip(found, slow, strict=True))
