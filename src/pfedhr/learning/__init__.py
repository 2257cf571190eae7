"""Training and evaluation on tensors in memory. Knows nothing of clients, rounds or blocks."""

from pfedhr.learning.augment import Augmentation
from pfedhr.learning.objectives import distil, nt_xent, soft_targets
from pfedhr.learning.training import Loss, Score, Training, TrainingError, batches, evaluate, fit

__all__ = [
    "Augmentation",
    "Loss",
    "Score",
    "Training",
    "TrainingError",
    "batches",
    "distil",
    "evaluate",
    "fit",
    "nt_xent",
    "soft_targets",
]
