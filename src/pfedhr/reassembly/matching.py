"""Which candidate suits whom: one that says on public data what the client says (eqs. (2) and (5)), or knows what it lacks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pfedhr.inference import predict


@dataclass(frozen=True)
class Matching:
    """`choice[owner]`: the number of the best candidate, absent if all were excluded; `scores` (owners, candidates)."""

    choice: dict[str, int]
    scores: Float[Tensor, "owners candidates"]


Score = Callable[[Tensor, Tensor], Tensor]
"""Largest (owners, candidates) where it is best, given logits (owners, samples, classes) and (candidates, samples, classes)."""


def agreement(
    owners: Float[Tensor, "owners samples classes"], candidates: Float[Tensor, "candidates samples classes"]
) -> Float[Tensor, "owners candidates"]:
    """Return the mean cosine over samples between the logits of each owner and of each candidate: eq. (5)."""
    unit = [torch.nn.functional.normalize(logits, dim=-1) for logits in (owners, candidates)]
    return torch.einsum("osc,msc->om", *unit) / owners.shape[1]


def complement(
    owners: Float[Tensor, "owners samples classes"],
    candidates: Float[Tensor, "candidates samples classes"],
    known: Float[Tensor, "samples classes"],
) -> Float[Tensor, "owners candidates"]:
    """Return how much of what each owner lacks each candidate has, from 0 to 1, given what is `known`: probabilities.

    An owner lacks of a class, on a sample, the share of the known probability that its softmax leaves to others. The mean of
    the candidate's softmax is weighted by what is lacking; where nothing is, all candidates have 0.
    """
    lack = known * (1 - owners.softmax(-1))
    had = torch.einsum("osc,msc->om", lack, candidates.softmax(-1))
    return had / lack.sum((1, 2))[:, None].clamp(min=torch.finfo(lack.dtype).tiny)


def match_logits(
    owners: Mapping[str, Tensor],
    candidates: Sequence[Tensor],
    exclude: Collection[tuple[str, int]] = (),
    score: Score = agreement,
) -> Matching:
    """Return the best candidate of each owner by `score`, the first of equals, given logits (samples, classes).

    `exclude`: pairs (owner, number of a candidate) that may not be matched.
    """
    if not owners or not candidates:
        return Matching({}, torch.zeros(len(owners), len(candidates)))
    scores = score(torch.stack(list(owners.values())), torch.stack(list(candidates)))
    choice: dict[str, int] = {}
    for row, owner in zip(scores, owners, strict=True):
        allowed = [number for number in range(len(candidates)) if (owner, number) not in exclude]
        if allowed:
            choice[owner] = max(allowed, key=lambda number: float(row[number]))  # max keeps the first of equals
    return Matching(choice, scores)


def match(owners: Mapping[str, nn.Module], candidates: Sequence[nn.Module], probe: Tensor) -> Matching:
    """Return the best candidate of each owner on `probe` (samples, ...), a batch that all the networks take."""
    return match_logits(
        {owner: predict(model, probe) for owner, model in owners.items()}, [predict(model, probe) for model in candidates]
    )
