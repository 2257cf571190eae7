"""Training with differential privacy, by DP-SGD, and what it spends.

M. Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, arXiv 1607.00133, algorithm 1. A step draws each example
into the batch with probability batch size / examples, clips the gradient of each, adds Gaussian noise to their sum, divides by
the expected batch size, and is Adam's from there on. What is spent is counted as Rényi divergence: I. Mironov, "Rényi
Differential Privacy", CSF 2017, arXiv 1702.07476; of sampled batches, arXiv 1908.10530. Neighbours differ by one example, which
one has and the other lacks.

The clipping and the count are Opacus' (A. Yousefpour et al., 2021, arXiv 2109.12298), the gradients of single
examples torch.func's: each is that of a batch of one, so nothing that examples share in a batch can enter it, whatever the
network and the loss.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  - the base of all kinds of it

from pfedhr.errors import PfedhrError
from pfedhr.learning.training import Loss, Training, adam, check_loss, check_weights
from pfedhr.seeding import long_number

if TYPE_CHECKING:
    from opacus.optimizers import DPOptimizer

Penalty = Callable[[], Tensor]
"""Computes a scalar that depends on the weights alone: no example enters it, so its gradient is neither clipped nor noisy."""

ORDERS = [1 + tenth / 10 for tenth in range(1, 100)] + [*range(11, 64), 80, 96, 128, 192, 256, 384, 512]
"""The orders of Rényi divergence that epsilon is the least over; each gives a bound."""


class PrivacyError(PfedhrError):
    """A network that cannot be trained with privacy; the message says why."""


@dataclass(frozen=True)
class Privacy:
    """How much noise, in units of `clip`; the norm that gradients are clipped to; and the delta that epsilon is told for.

    `secret`: what noise and batches are drawn from in place of the run's seed, which others know.
    """

    noise: float
    clip: float
    delta: float
    secret: int | None = None

    def drawn_for(self, purpose: str, seed: int) -> Privacy:
        """Return it with a secret for this purpose alone, made of its own, or of `seed` if it has none.

        Trainings on the same examples must not share their noise: the difference of what they tell would have none.
        """
        return replace(self, secret=long_number(seed if self.secret is None else self.secret, purpose))


def fit_privately(
    model: nn.Module,
    count: int,
    loss: Loss,
    training: Training,
    privacy: Privacy,
    rng: torch.Generator,
    noise: torch.Generator,
    penalty: Penalty | None = None,
) -> float:
    """Train `model` in place on `count` examples by DP-SGD, in `private_steps` steps; return the last mean loss.

    `loss` is a mean over the batch, of what it says of each example by itself. Batches are drawn from `rng` and noise from
    `noise`, both on the CPU. The mean loss has no noise. Leaves the model in train mode. Raises TrainingError as `fit` does.
    """
    optimiser = _optimiser(model, training, privacy, noise)
    if penalty is not None:
        optimiser.attach_step_hook(lambda _: _add_gradients(penalty, optimiser.params))
    gradients, device = ExampleGradients(model, loss), next(model.parameters()).device
    model.train()
    mean = math.nan
    for epoch in range(1, training.epochs + 1):
        total, seen = torch.zeros((), device=device), 0
        for batch in poisson_batches(count, training.batch_size, rng, device):
            optimiser.zero_grad(set_to_none=True)
            total += gradients(batch).sum()
            if penalty is not None:
                total += penalty().detach() * len(batch)
            seen += len(batch)
            optimiser.step()
        mean = total.item() / max(seen, 1)
        check_loss(mean, epoch, training)
    check_weights(model, training)
    for weight in model.parameters():
        weight.grad_sample = weight.summed_grad = None  # pyright: ignore[reportAttributeAccessIssue]  - as large as a batch of networks
    return mean


def _optimiser(model: nn.Module, training: Training, privacy: Privacy, noise: torch.Generator) -> DPOptimizer:
    """Return Adam on clipped and noisy gradients, which are made from those of single examples."""
    from opacus.optimizers import DPOptimizer

    class FromProcessor(DPOptimizer):
        """Draws its noise on the CPU, whose generator alone takes a key of any size, whatever device the weights are on."""

        def add_noise(self) -> None:
            """Leave the clipped gradients with noise in `grad` of the weights."""
            deviation = self.noise_multiplier * self.max_grad_norm
            for weight in self.params:
                drawn = torch.normal(0.0, deviation, weight.shape, generator=noise, dtype=weight.dtype)
                weight.grad = weight.summed_grad + drawn.to(weight.device)  # pyright: ignore[reportAttributeAccessIssue]

    return FromProcessor(
        adam(model, training),
        noise_multiplier=privacy.noise,
        max_grad_norm=privacy.clip,
        expected_batch_size=training.batch_size,
    )


def poisson_batches(count: int, size: int, rng: torch.Generator, device: torch.device) -> Iterator[Tensor]:
    """Yield the places of an epoch's batches, (any number,) int64 each: every example is in each with chance `size / count`."""
    for _ in range(_batches(count, size)):
        drawn = torch.rand(count, generator=rng, dtype=torch.float64) < size / count
        yield drawn.nonzero().flatten().to(device)


def private_steps(count: int, training: Training) -> int:
    """Return how many steps `fit_privately` takes on `count` examples: as many as `fit`."""
    return training.epochs * _batches(count, training.batch_size)


def _batches(count: int, size: int) -> int:
    return math.ceil(count / size)


class ExampleGradients:
    """Computes the gradients of single examples, and leaves them where Opacus looks for them: in `grad_sample` of weights."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        objective = _Objective(model, loss)
        self._weights = {name: value for name, value in objective.named_parameters() if value.requires_grad}

        def value(weights: dict[str, Tensor], place: Tensor) -> Tensor:
            return functional_call(objective, weights, (place,))

        # "different": dropout is drawn for every example, from torch's global generators as elsewhere.
        self._compute = vmap(grad_and_value(value), in_dims=(None, 0), randomness="different")

    def __call__(self, batch: Tensor) -> Tensor:
        """Return the losses (n,) of the examples at `batch` (n,), n >= 0; every weight's gradients are (n, *its shape)."""
        if not len(batch):
            for weight in self._weights.values():
                weight.grad_sample = weight.new_zeros(0, *weight.shape)  # pyright: ignore[reportAttributeAccessIssue]
            return torch.zeros(0, device=batch.device)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # recurrent layers go one by one
            gradients, values = self._compute({name: weight.detach() for name, weight in self._weights.items()}, batch)
        for name, weight in self._weights.items():
            weight.grad_sample = gradients[name].detach()  # pyright: ignore[reportAttributeAccessIssue]
        return values.detach()


class _Objective(nn.Module):
    """The loss of one example as a module around the model: whatever the loss uses of it then has the exchanged weights."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, place: Tensor) -> Tensor:
        return self._loss(self.model, place.unsqueeze(0))


def _add_gradients(penalty: Penalty, weights: list[nn.Parameter]) -> None:
    for weight, gradient in zip(weights, torch.autograd.grad(penalty(), weights), strict=True):
        assert weight.grad is not None
        weight.grad += gradient


def check_gradients(model: nn.Module, inputs: Tensor) -> None:
    """Raise PrivacyError unless `model` can be trained with privacy; tried on `inputs` (n >= 1, ...). Changes the model."""
    for name, part in model.named_modules():
        if isinstance(part, _BatchNorm):
            raise PrivacyError(f"batch norm ({name}) mixes the examples of a batch, so that none has a gradient of its own")
    before = {name: (value, value.clone()) for name, value in model.named_buffers()}
    gradients = ExampleGradients(model.train(), lambda model, batch: model(inputs[batch]).logsumexp(1).mean())
    try:
        gradients(torch.arange(len(inputs), device=inputs.device))
        kept = ((name, value, *before[name]) for name, value in model.named_buffers())
        changed = [name for name, value, held, copy in kept if value is not held or not torch.equal(value, copy)]
    except Exception as error:  # of torch.func or of the network: neither says which
        reason = str(error).partition("\n")[0]
        raise PrivacyError(f"gradients of single examples cannot be computed: {type(error).__name__}: {reason}") from error
    if changed:
        raise PrivacyError(f"training changes {', '.join(changed)} besides the weights, which no noise covers")


def epsilon(privacy: Privacy, rate: float, steps: int) -> float:
    """Return the epsilon for `privacy.delta` after `steps` steps whose batches have each example with chance `rate`.

    Infinity where the noise is too small for any bound.
    """
    from opacus.accountants.analysis import rdp

    if not steps:
        return 0.0
    spent = rdp.compute_rdp(q=rate, noise_multiplier=privacy.noise, steps=steps, orders=ORDERS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the least may be at an end of the orders: still a bound
        found, _ = rdp.get_privacy_spent(orders=ORDERS, rdp=spent, delta=privacy.delta)
    return max(float(found), 0.0)
