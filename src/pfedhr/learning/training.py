"""The one training loop, on tensors in memory, and the one evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pfedhr.errors import PfedhrError
from pfedhr.inference import predict
from pfedhr.learning.replay import Replayed, Step, replayable


class TrainingError(PfedhrError):
    """Training that cannot go on, such as a loss that is not a number."""


@dataclass(frozen=True)
class Training:
    """How to train: Adam, a new optimiser each time."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0


Loss = Callable[[nn.Module, Tensor], Tensor]
"""Maps the model and the places of a batch (batch,) int64 to a scalar: each objective holds its own tensors.

One that is marked as `steady` may be recorded and replayed on a CUDA device.
"""


def fit(model: nn.Module, count: int, loss: Loss, training: Training, rng: torch.Generator) -> float:
    """Train `model` in place on `count` examples, in an order drawn anew each epoch from `rng`; return the last mean loss.

    Leaves the model in train mode. Raises TrainingError, naming the epoch, as soon as an epoch's loss is not finite.
    """
    device = next(model.parameters()).device
    optimiser = adam(model, training)
    total = torch.zeros((), device=device)

    def launched(batch: Tensor) -> None:
        optimiser.zero_grad()
        value = loss(model, batch)
        value.backward()
        optimiser.step()
        total.add_(value.detach() * len(batch))

    step: Step = launched
    if replayable(model, loss, training.epochs * (count // training.batch_size)):
        step = Replayed(launched, optimiser, training.batch_size)
    model.train()
    mean = math.nan
    for epoch in range(1, training.epochs + 1):
        total.zero_()
        for batch in batches(count, training.batch_size, rng, device):
            step(batch)
        mean = total.item() / count
        check_loss(mean, epoch, training)
    check_weights(model, training)
    return mean


def adam(model: nn.Module, training: Training) -> torch.optim.Adam:
    """Return a new optimiser of the weights of `model` that learn."""
    weights = [value for value in model.parameters() if value.requires_grad]
    fused = weights[0].device.type in ("cpu", "cuda")
    return torch.optim.Adam(weights, lr=training.learning_rate, weight_decay=training.weight_decay, fused=fused)


def check_loss(mean: float, epoch: int, training: Training) -> None:
    """Raise TrainingError, naming the epoch, unless its mean loss is finite."""
    if not math.isfinite(mean):
        raise TrainingError(
            f"the loss is {mean} in epoch {epoch} of {training.epochs}, at learning rate {training.learning_rate}: "
            f"try a smaller learning rate, or look for values that are not finite in the data"
        )


def check_weights(model: nn.Module, training: Training) -> None:
    """Raise TrainingError unless all weights are finite after training."""
    if not all(bool(torch.isfinite(value).all()) for value in model.parameters()):
        raise TrainingError(
            f"weights are no longer finite after {training.epochs} epochs, at learning rate {training.learning_rate}: try a "
            f"smaller learning rate"
        )


def batches(count: int, size: int, rng: torch.Generator, device: torch.device) -> Iterator[Tensor]:
    """Yield the places of one epoch's batches, each (size or fewer,) int64, every example once."""
    yield from torch.randperm(count, generator=rng).to(device).split(size)


@dataclass(frozen=True)
class Score:
    """How a model did on `count` examples: the share it got right."""

    accuracy: float
    count: int


def evaluate(model: nn.Module, inputs: Tensor, labels: Tensor) -> Score:
    """Return the share of `inputs` (n, ...) for which the model's largest logit is that of `labels` (n,) int64."""
    right = (predict(model, inputs).argmax(1) == labels).sum().item()
    return Score(right / len(labels), len(labels))
