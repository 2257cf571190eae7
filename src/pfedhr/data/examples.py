"""What is learnt from: labelled examples, and examples whose labels are withheld by type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pfedhr.errors import PfedhrError


class DataError(PfedhrError):
    """Data that is missing, damaged or cannot be shared out as asked; the message names place and remedy."""


def ready(inputs: Tensor, device: torch.device) -> Tensor:
    """Return `inputs` on `device` as a network takes them: uint8 images scaled from 0..255 to [-1, 1], floats as float32."""
    inputs = inputs.to(device)
    if inputs.dtype == torch.uint8:
        return inputs.float().div_(127.5).sub_(1.0)
    return inputs.float() if inputs.is_floating_point() else inputs


def check_labels(place: str, labels: Tensor, classes: int) -> None:
    """Raise DataError, naming `place`, unless all `labels` (n,) int64, n >= 1, lie in [0, classes)."""
    lowest, highest = (int(label) for label in labels.aminmax())
    if lowest < 0 or highest >= classes:
        raise DataError(
            f"{place} has labels from {lowest} to {highest}, but there are {classes} classes: number the "
            "labels from 0 to classes - 1"
        )


def check_inputs(place: str, inputs: Tensor) -> None:
    """Raise DataError, naming `place`, unless `inputs` (n, ...), n >= 1, are plain numbers to learn from, and finite."""
    if inputs.layout != torch.strided:
        raise DataError(f"{place} has sparse inputs: give dense ones, as inputs.to_dense() makes them")
    if inputs.is_complex():
        raise DataError(f"{place} has complex inputs: give their real and imaginary parts, as torch.view_as_real makes them")
    if inputs.requires_grad:
        raise DataError(f"{place} has inputs that require gradients: give inputs.detach()")
    if not inputs[0].numel():
        raise DataError(f"{place} has inputs of shape {tuple(inputs.shape[1:])}, which hold no number: give each at least one")
    if inputs.is_floating_point():
        # As networks take them: beyond the range of float32, a float64 becomes infinity.
        finite = ready(inputs, inputs.device).reshape(len(inputs), -1).isfinite().all(1)
        if not finite.all():
            first, count = int(finite.int().argmin()), int((~finite).sum())
            raise DataError(
                f"{place} has NaN or infinity, or a number beyond float32, in the inputs of {count} of {len(inputs)} "
                f"examples, the first at row {first}, counted from 0: leave those out, or fill them in"
            )


def extremes(parts: Sequence[Tensor]) -> Tensor:
    """Return the inputs (k, ...) of `parts`, each (n, ...), with the least and largest numbers, wherever these name things.

    Such numbers are whole; in floats they lie in rows, (n, columns), perhaps beside measurements. None (0, ...) where all are
    measurements, or images: of those, one shows as much as another.
    """
    some = parts[0]
    if some.dtype in (torch.uint8, torch.bool) or (some.is_floating_point() and some.dim() > 2):
        return some[:0]
    inputs = torch.cat(list(parts))
    whole = (inputs == inputs.round()).all(0) if some.is_floating_point() else torch.ones(some.shape[1:], dtype=torch.bool)
    numbers = inputs[:, whole]
    return inputs[torch.cat([numbers.argmin(0), numbers.argmax(0)]).unique()] if whole.any() else some[:0]


@dataclass(frozen=True)
class Examples:
    """Labelled examples: `inputs` (n, ...), uint8 images or tensors of any dtype; `labels` (n,) int64."""

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        for name, value in (("inputs", self.inputs), ("labels", self.labels)):
            if not isinstance(value, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise DataError(f"{name} of type {type(value).__name__}: give a torch.Tensor")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.inputs.shape[:1]:
            raise DataError(
                f"labels of shape {tuple(self.labels.shape)} and type {self.labels.dtype} for inputs of "
                f"shape {tuple(self.inputs.shape)}: give one int64 label an example"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Examples:
        """Return the examples at `index` (k,) int64, in that order, as a copy."""
        return Examples(self.inputs[index], self.labels[index])

    def ready(self, device: torch.device) -> Examples:
        """Return the examples on `device`, as a network takes them."""
        return Examples(ready(self.inputs, device), self.labels.to(device))

    def without_labels(self) -> Unlabelled:
        """Return the inputs alone."""
        return Unlabelled(self.inputs)


@dataclass(frozen=True)
class Unlabelled:
    """Examples whose labels are withheld: `inputs` (n, ...), as in `Examples`."""

    inputs: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: Tensor) -> Unlabelled:
        """Return the examples at `index` (k,) int64, in that order, as a copy."""
        return Unlabelled(self.inputs[index])

    def ready(self, device: torch.device) -> Unlabelled:
        """Return the examples on `device`, as a network takes them."""
        return Unlabelled(ready(self.inputs, device))


Public = Examples | Unlabelled
