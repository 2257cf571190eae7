"""What training makes small: functions of logits, means over the batch."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def soft_targets(logits: Float[Tensor, "batch classes"], temperature: float = 1.0) -> Float[Tensor, "batch classes"]:
    """Return what a teacher's logits teach: the logarithms of their softmax at `temperature`, without gradients."""
    return functional.log_softmax(logits.detach() / temperature, dim=1)


def distil(
    student: Float[Tensor, "batch classes"], targets: Float[Tensor, "batch classes"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """Return KL(teacher || student) of the softmaxes at `temperature`, times its square: the second term of eq. (6).

    `student`: logits; `targets`: the teacher's `soft_targets` at the same temperature. The square keeps gradients at one scale
    whatever the temperature (Hinton et al., 2015, arXiv 1503.02531).
    """
    guesses = functional.log_softmax(student / temperature, dim=1)
    return functional.kl_div(guesses, targets, reduction="batchmean", log_target=True) * temperature**2


def nt_xent(
    first: Float[Tensor, "batch features"], second: Float[Tensor, "batch features"], temperature: float = 0.5
) -> Float[Tensor, ""]:
    """Return the normalised temperature-scaled cross entropy of two views of the same examples.

    Each view must find its pair among the 2 * batch - 1 others by cosine (Chen et al., "A Simple Framework for Contrastive
    Learning", ICML 2020). A batch of one has no other to tell apart and gives 0.
    """
    views = functional.normalize(torch.cat([first, second]), dim=1)
    scores = views @ views.T / temperature
    scores.fill_diagonal_(-torch.inf)
    pairs = torch.arange(len(views), device=views.device).roll(len(first))
    return functional.cross_entropy(scores, pairs)
