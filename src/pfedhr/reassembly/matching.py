"""Which candidate suits whom: the one whose logits on public data point where the client's own do (eqs. (2) and (5))."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pfedhr.inference import predict


@dataclass(frozen=True)
class Matching:
    """`choice[owner]`: the number of the best candidate, absent if all were excluded; `similarity` (owners, candidates)."""

    choice: dict[str, int]
    similarity: Float[Tensor, "owners candidates"]


def agreement(
    owners: Float[Tensor, "owners samples classes"], candidates: Float[Tensor, "candidates samples classes"]
) -> Float[Tensor, "owners candidates"]:
    """Return the mean cosine over samples between the logits of each owner and of each candidate: eq. (5)."""
    unit = [torch.nn.functional.normalize(logits, dim=-1) for logits in (owners, candidates)]
    return torch.einsum("osc,msc->om", *unit) / owners.shape[1]


def match_logits(
    owners: Mapping[str, Tensor], candidates: Sequence[Tensor], exclude: Collection[tuple[str, int]] = ()
) -> Matching:
    """Return the best candidate of each owner by `agreement`, the first of equals, given logits (samples, classes).

    `exclude`: pairs (owner, number of a candidate) that may not be matched.
    """
    similarity = agreement(torch.stack(list(owners.values())), torch.stack(list(candidates)))
    choice: dict[str, int] = {}
    for row, owner in zip(similarity, owners, strict=True):
        allowed = [number for number in range(len(candidates)) if (owner, number) not in exclude]
        if allowed:
            choice[owner] = max(allowed, key=lambda number: float(row[number]))  # max keeps the first of equals
    return Matching(choice, similarity)


def match(owners: Mapping[str, nn.Module], candidates: Sequence[nn.Module], probe: Tensor) -> Matching:
    """Return the best candidate of each owner on `probe` (samples, ...), a batch that all the networks take."""
    return match_logits(
        {owner: predict(model, probe) for owner, model in owners.items()}, [predict(model, probe) for model in candidates]
    )
