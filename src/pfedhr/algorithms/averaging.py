"""The mean of networks of one structure."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pfedhr.parcel import Tensors


def weighted_mean(weights: Sequence[Tensors], counts: Sequence[int]) -> Tensors:
    """Return the mean of the weights, each counted `counts` times, as FedAvg has it (McMahan et al., AISTATS 2017).

    Running statistics are averaged like weights; integer counters, which have no mean, take their largest value.
    """
    total = sum(counts)

    def mean(values: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack(list(values))
        if not stacked.is_floating_point():
            return stacked.amax(0)
        shares = torch.tensor([count / total for count in counts], dtype=stacked.dtype)
        return torch.tensordot(shares, stacked, 1)

    return {name: mean([one[name] for one in weights]) for name in weights[0]}


def plain_mean(weights: Sequence[Tensors]) -> Tensors:
    """Return the mean of the weights, each counted once."""
    return weighted_mean(weights, [1] * len(weights))


def mixed(old: Tensors, new: Tensors, share: float) -> Tensors:
    """Return (1 - share) old + share new of everything that is a float; counters are the new ones."""
    added = differences(old, new)
    return {name: old[name] + share * added[name] if value.is_floating_point() else value for name, value in new.items()}


def differences(before: Tensors, after: Tensors) -> Tensors:
    """Return what `after` adds to `before`; of what is no float, such as a counter, the new value."""

    def added(old: Tensor, new: Tensor) -> Tensor:
        # A mask is minus infinity in places, from which it differs by nothing: subtracting would give NaN.
        return torch.where(new == old, 0, new - old) if new.is_floating_point() else new

    return {name: added(before[name], value) for name, value in after.items()}
