"""How alike two blocks work: centred kernel alignment (CKA) of what enters them and of what leaves them.

Kornblith et al., "Similarity of Neural Network Representations Revisited" (ICML 2019), and eq. (3) of pFedHR.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from pfedhr.inference import inference
from pfedhr.reassembly.bank import BlockBank, BlockRef
from pfedhr.reassembly.blocks import flatten_for

ROUNDING = 8
"""How many times the precision of its dtype a feature may vary, relative to its mean, and count as constant."""


def gram(activations: Shaped[Tensor, "samples *features"], *, rescaled: bool = False) -> Float[Tensor, "samples samples"]:
    """Return the linear kernel of the activations, features centred over the samples.

    Whole numbers name words, so that their sizes mean nothing: each counts as the one-hot vector of its word and place.
    `rescaled`: the kernel of features brought to a size near one, by a power of two, and of zeros if some are not finite.
    """
    features = activations.flatten(1)
    if not features.is_floating_point():
        kernel = torch.zeros(len(features), len(features), device=features.device)
        for place in features.T:
            kernel += place[:, None] == place
        return _centred(kernel)
    mean = features.mean(0)
    centred, allowed = features - mean, ROUNDING * torch.finfo(features.dtype).eps * mean.abs()
    # What rounding leaves of a constant feature is the same for all samples, and would be alike in any two networks. Nearly all
    # features vary among a few samples already, and zeros are centred exactly.
    suspects = ((_spread(features[:8]) <= allowed) & (mean != 0) & mean.isfinite()).nonzero().flatten()
    centred[:, suspects[_spread(features[:, suspects]) <= allowed[suspects]]] = 0.0
    if rescaled:
        _rescale(centred)
    return centred @ centred.T


def _spread(features: Float[Tensor, "samples features"]) -> Float[Tensor, " features"]:
    return features.amax(0) - features.amin(0)


def _rescale(features: Float[Tensor, "samples features"]) -> None:
    """Divide `features` in place by the power of two that leaves the largest between 1 and 2; set them to 0 if not finite.

    To divide by a power of two loses no bit, and fourth powers of what is left neither overflow nor vanish.
    """
    low, high = map(float, features.aminmax())
    largest = max(-low, high)
    if math.isfinite(largest):
        features.div_(max(2.0 ** (math.frexp(largest)[1] - 1), torch.finfo(features.dtype).tiny))
    else:
        features.zero_()


def _centred(kernel: Float[Tensor, "samples samples"]) -> Float[Tensor, "samples samples"]:
    rows = kernel - kernel.mean(0)
    return rows - rows.mean(1, keepdim=True)


def hsic(x: Float[Tensor, "samples *p"], y: Float[Tensor, "samples *q"], *, unbiased: bool = False) -> Float[Tensor, ""]:
    """Return the Hilbert-Schmidt independence criterion of two sets of activations of the same samples in the same order.

    By default the biased HSIC0, trace(K H L H) / (n - 1)^2; `unbiased` gives HSIC1 of Song et al. (JMLR 2012), for n >= 4.
    """
    k, l, n = gram(x), gram(y), len(x)  # noqa: E741 - the names of the formula
    if not unbiased:
        return (k * l).sum() / (n - 1) ** 2
    if n < 4:
        raise ValueError(f"the unbiased HSIC needs at least 4 samples, not {n}")
    k, l = k - k.diag().diag(), l - l.diag().diag()  # noqa: E741
    product = (k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ l.sum(0))
    return product / (n * (n - 3))


def cka(x: Float[Tensor, "samples *p"], y: Float[Tensor, "samples *q"]) -> Float[Tensor, ""]:
    """Return the linear CKA of two sets of activations of the same samples, in [0, 1], whatever their sizes.

    It is 0 where one of them is constant or not finite.
    """
    return (_unit(x) @ _unit(y)).clamp(0, 1)


def _unit(activations: Shaped[Tensor, "samples *features"]) -> Float[Tensor, " entries"]:
    """Return the kernel as a vector of length one, or of zeros if the activations are constant or not finite."""
    vector = gram(activations, rescaled=True).flatten()  # the length of one that is not could overflow
    norm = vector.norm()
    return vector / norm if norm > 0 else vector


@dataclass(frozen=True)
class Profile:
    """What the blocks did on the probe: one centred Gram matrix of unit length for every place between blocks.

    `places` (places, samples^2); `entering[i]` and `leaving[i]` are the rows of block `refs[i]`. What leaves a block
    is what enters the next, so a network of H blocks has H + 1 places. `logits` (samples, classes) are what networks gave, by
    their names, and `intakes` (kept, ...) what each block took of the first samples, as many as were asked for.
    """

    refs: tuple[BlockRef, ...]
    places: Float[Tensor, "places entries"]
    entering: tuple[int, ...]
    leaving: tuple[int, ...]
    logits: Mapping[str, Tensor]
    intakes: Mapping[BlockRef, Tensor]


@dataclass(frozen=True)
class Similarity:
    """`values` (blocks, blocks): CKA of the inputs plus CKA of the outputs, in [0, 2], for the blocks `refs` in this order."""

    refs: tuple[BlockRef, ...]
    values: Float[Tensor, "blocks blocks"]


def profile(bank: BlockBank, probe: Tensor, keep: int = 0) -> Profile:
    """Run every network of the bank once on `probe` (samples, ...), in eval mode, and keep its Gram matrices.

    What enters the blocks is kept of the first `keep` samples alone, for it is large.
    """
    places: list[Tensor] = []
    at: dict[BlockRef, int] = {}
    logits, intakes = dict[str, Tensor](), dict[BlockRef, Tensor]()
    for owner in bank.owners:
        chain = bank.chain(owner)
        values = probe.clone()  # for a module may change in place what it takes
        with inference(*(bank[ref].module for ref in chain)):
            places.append(_unit(values))
            for ref in chain:
                at[ref] = len(places)
                values = flatten_for(bank[ref], values)
                if keep:
                    intakes[ref] = values[:keep].clone()
                values = bank[ref].module(values)
                places.append(_unit(values))
        logits[owner] = values
    leaving = tuple(at[ref] for ref in bank)
    return Profile(tuple(bank), torch.stack(places), tuple(place - 1 for place in leaving), leaving, logits, intakes)


def block_similarity(profile: Profile) -> Similarity:
    """Return the similarity of all pairs of blocks at once: the denominator of eq. (3), by one matrix product."""
    alignment = (profile.places @ profile.places.T).clamp(0, 1)

    def between(rows: Sequence[int]) -> Tensor:
        return alignment[list(rows)][:, list(rows)]

    return Similarity(profile.refs, between(profile.entering) + between(profile.leaving))
