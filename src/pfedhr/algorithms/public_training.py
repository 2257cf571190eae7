"""What methods share whose server trains networks on the public data."""

from __future__ import annotations

from torch import Tensor, nn

from pfedhr.algorithm import ServerView
from pfedhr.learning import Loss, Training, TrainingError, distil, fit, steady
from pfedhr.seeding import generator, seeded


def train_publicly(model: nn.Module, loss: Loss, training: Training, view: ServerView, purpose: str, *path: str) -> float:
    """Train `model` in place on the public examples, and return the last mean loss.

    `path` names the random numbers under the view's round. Raises TrainingError naming `purpose` and round.
    """
    name = (view.round, *path)
    try:
        with seeded(view.seed, *name, "dropout"):
            return fit(model, len(view.public), loss, training, generator(view.seed, *name, "batches"))
    except TrainingError as error:
        raise TrainingError(f"{purpose} in round {view.round}: {error}") from error


def towards(targets: Tensor, inputs: Tensor, temperature: float = 1.0) -> Loss:
    """Return the loss of a network that learns on `inputs` (n, ...) what `targets`, `soft_targets` (n, classes), teach."""
    return steady(lambda model, batch: distil(model(inputs[batch]), targets[batch], temperature))
