"""What methods share whose server trains networks on the public data."""

from __future__ import annotations

import logging

from torch import Tensor, nn

from pfedhr.algorithm import ServerView
from pfedhr.learning import Loss, Training, TrainingError, distil, fit, steady
from pfedhr.parcel import Tensors
from pfedhr.seeding import generator, seeded

LOG = logging.getLogger("pfedhr")


def train_publicly(
    model: nn.Module, loss: Loss, training: Training, view: ServerView, purpose: str, *path: str
) -> float | None:
    """Train `model` in place on the public examples, and return the last mean loss.

    `path` names the random numbers under the view's round. Where the training is not finite, or leaves statistics that are not,
    the model stays as it was, with a warning that names `purpose` and round, and None comes back: one client's weights must not
    end the run of all.
    """
    name = (view.round, *path)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        with seeded(view.seed, *name, "dropout"):
            last = fit(model, len(view.public), loss, training, generator(view.seed, *name, "batches"))
        _check_statistics(model.state_dict(), before)
        return last
    except TrainingError as error:
        LOG.warning("%s in round %d leaves the network as it was: %s", purpose, view.round, error)
        model.load_state_dict(before)
        return None


def _check_statistics(after: Tensors, before: Tensors) -> None:
    """Raise TrainingError where what a batch norm has seen became infinite; outputs hide that, for they are divided by it.

    No reply of a client that began with such a network would be taken. Masks hold infinities from the beginning.
    """
    for name, value in after.items():
        if bool((before[name].isfinite() & ~value.isfinite()).any()):
            raise TrainingError(f"{name} is no longer finite")


def finite(logits: Tensor, whose: str) -> bool:
    """Return whether logits on the public data are finite, with a warning where they are not: nothing learns from these."""
    sound = bool(logits.isfinite().all())
    if not sound:
        LOG.warning("the logits of %s's network are not finite on the public data: nothing learns from them", whose)
    return sound


def towards(targets: Tensor, inputs: Tensor, temperature: float = 1.0) -> Loss:
    """Return the loss of a network that learns on `inputs` (n, ...) what `targets`, `soft_targets` (n, classes), teach."""
    return steady(lambda model, batch: distil(model(inputs[batch]), targets[batch], temperature))
