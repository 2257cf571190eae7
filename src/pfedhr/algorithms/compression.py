"""Changes of weights made small for the wire: matrices as products of two narrow ones."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from pfedhr.parcel import Tensors


@dataclass(frozen=True)
class Change:
    """How weights change, by their names.

    `whole`: differences as they are, and new values of what is no float. `left` (rows, rank) and `right` (rank, columns): the
    differences that are their products, a convolution's as (out, in * height * width).
    """

    whole: Tensors
    left: Tensors
    right: Tensors


def compress(added: Tensors, energy: float, spared: Collection[str]) -> Change:
    """Return differences as a change that keeps the share `energy` of each matrix's sum of squares, or more.

    Vectors, what is no float, the names in `spared`, and matrices whose factors would not be smaller stay whole.
    """
    whole, left, right = dict(added), dict[str, Tensor](), dict[str, Tensor]()
    for name, value in added.items():
        if not value.is_floating_point() or value.dim() < 2 or name in spared:
            continue
        matrix = value.reshape(len(value), -1)
        rows, values, columns = torch.linalg.svd(matrix, full_matrices=False)
        kept = rank(values, energy)
        if kept * sum(matrix.shape) < matrix.numel():
            left[name], right[name] = rows[:, :kept] * values[:kept], columns[:kept]
            del whole[name]
    return Change(whole, left, right)


def rank(values: Tensor, energy: float) -> int:
    """Return how many of the singular values (r,), largest first, it takes for the share `energy` of their sum of squares."""
    # In float64, where even the least value counts: energy 1 keeps all that are not 0.
    reached = torch.cat([torch.zeros(1), values]).double().square().cumsum(0)
    return int((reached < energy * reached[-1]).sum())


def expand(change: Change, like: Tensors) -> Tensors:
    """Return the differences that a change of weights shaped `like` stands for."""
    return {
        name: (change.left[name] @ change.right[name]).reshape(held.shape) if name in change.left else change.whole[name]
        for name, held in like.items()
    }


def change_fault(change: Change, like: Tensors) -> str:
    """Return why a change is none of weights shaped `like`, or nothing."""
    if change.left.keys() != change.right.keys() or change.whole.keys() & change.left.keys():
        return "its parts do not belong together"
    if other := (change.whole.keys() | change.left.keys()) ^ like.keys():
        return f"it changes other tensors: {sorted(other)[:3]}"
    for name, held in like.items():
        if name in change.whole:
            fits = change.whole[name].shape == held.shape and change.whole[name].dtype == held.dtype
        else:
            fits = _is_product(change.left[name], change.right[name], held)
        if not fits:
            return f"its part {name} does not have the shape of {tuple(held.shape)}"
    broken = [name for name, added in expand(change, like).items() if not added.isfinite().all()]
    return f"its part {broken[0]} is not finite" if broken else ""


def _is_product(left: Tensor, right: Tensor, held: Tensor) -> bool:
    """Return whether the product of two matrices is a difference of `held`, as `compress` makes it."""
    if held.dim() < 2 or left.dim() != 2 or right.dim() != 2 or {left.dtype, right.dtype} != {held.dtype}:
        return False
    return left.shape[1] == right.shape[0] and (len(left), right.shape[1]) == held.flatten(1).shape


def apply(change: Change, weights: Tensors) -> Tensors:
    """Return `weights` after the change."""
    added = expand(change, weights)
    return {name: held + added[name] if held.is_floating_point() else added[name] for name, held in weights.items()}


def change_size(change: Change) -> int:
    """Return how many values a change holds."""
    return sum(value.numel() for part in (change.whole, change.left, change.right) for value in part.values())
