"""Training and evaluation on tensors in memory. Knows nothing of clients, rounds or blocks."""

from pfedhr.learning.augment import Augmentation
from pfedhr.learning.objectives import distil, nt_xent, soft_targets
from pfedhr.learning.privacy import Penalty, Privacy, PrivacyError, check_gradients, epsilon, fit_privately, private_steps
from pfedhr.learning.replay import steady
from pfedhr.learning.training import Loss, Score, Training, TrainingError, batches, evaluate, fit

__all__ = [
    "Augmentation",
    "Loss",
    "Penalty",
    "Privacy",
    "PrivacyError",
    "Score",
    "Training",
    "TrainingError",
    "batches",
    "check_gradients",
    "distil",
    "epsilon",
    "evaluate",
    "fit",
    "fit_privately",
    "nt_xent",
    "private_steps",
    "soft_targets",
    "steady",
]
