"""pFedMe: personal models tied to a shared one by a Moreau envelope.

C. T. Dinh, N. H. Tran, T. D. Nguyen, "Personalized Federated Learning with Moreau Envelopes", NeurIPS 2020, arXiv 2006.08848,
algorithm 1. A client's theta minimises f(theta) + lambda/2 ||theta - w||^2 by a few gradient steps on each batch, then w moves
towards it by eta lambda (theta - w). Up: w, never theta, and the number of examples, which the mean does not use. Down: w. The
server mixes (1 - beta) w with beta times the mean. What serves a client is theta.

Departures: as many batches as the experiment's local epochs have; running statistics of batch norms are averaged with w, but a
beta above 1 does not carry them beyond their mean, where a variance could be negative; beta counts from the second round on,
for a server that is told no networks has no w before the first replies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pfedhr.algorithm import ClientView, Metrics, ServerView, SettingError, Setup
from pfedhr.algorithms.averaging import mixed
from pfedhr.algorithms.held import Held, Shared
from pfedhr.algorithms.homogeneous import Homogeneous, Trained, mean, received
from pfedhr.algorithms.needs import above_zero, at_least
from pfedhr.algorithms.private import gradients_of, restore, weights_of
from pfedhr.learning import TrainingError, batches
from pfedhr.seeding import generator, seeded


@dataclass(frozen=True)
class Moved(Trained):
    """What goes up: w, how many examples it saw, and which of its tensors no step moves, such as running statistics."""

    buffers: tuple[str, ...]


@dataclass(frozen=True)
class PFedMe(Homogeneous):
    """Personalised federated learning with Moreau envelopes."""

    envelope: float = 15.0
    """Weight that ties the personal model to the shared one (lambda)."""
    personal_steps: int = 5
    """Gradient steps of the personal model on each batch (K)."""
    personal_learning_rate: float = 0.01
    """Size of these steps."""
    shared_learning_rate: float = 0.005
    """Step of the shared model towards the personal one (eta); times the envelope it is at most 1."""
    mixing: float = 1.0
    """Share of the mean in the server's new model (beta)."""

    name = "pfedme"
    uncovered = "it takes several steps on each batch of private examples, none of them by DP-SGD"
    reply_type = Moved

    def check(self, setup: Setup) -> None:
        """Raise SettingError for several structures, or settings out of range."""
        super().check(setup)
        at_least(self, envelope=0, personal_steps=1, shared_learning_rate=0)
        above_zero(self, "personal_learning_rate", "mixing")
        step = self.envelope * self.shared_learning_rate
        if step > 1:
            raise SettingError(
                f"algorithm.envelope * algorithm.shared_learning_rate = {step} of {self.name}: above 1 the shared model "
                f"oversteps the personal one; choose a smaller one of the two"
            )

    def client_step(self, state: Held, message: Shared, view: ClientView) -> tuple[Held, Moved, Metrics]:
        """Move theta on every batch, and w after it."""
        examples = view.train.ready(view.device)
        model = restore(view.network, received(message, view)).to(view.device).train()
        theta = [value for value in model.parameters() if value.requires_grad]
        shared = [value.detach().clone() for value in theta]
        rng = generator(view.seed, view.round, view.id, "batches")
        total = 0.0
        with seeded(view.seed, view.round, view.id, "dropout"):
            for _ in range(view.training.epochs):
                total = 0.0
                for batch in batches(len(examples), view.training.batch_size, rng, view.device):

                    def loss(batch: Tensor = batch) -> Tensor:
                        return functional.cross_entropy(model(examples.inputs[batch]), examples.labels[batch])

                    total += self.envelope_step(theta, shared, loss) * len(batch)
        if not math.isfinite(total):
            raise TrainingError(
                f"the loss is {total} at algorithm.personal_learning_rate = {self.personal_learning_rate}: choose a smaller one"
            )
        personal = weights_of(model)
        with torch.no_grad():
            for value, moved in zip(theta, shared, strict=True):
                value.copy_(moved)
        weights = weights_of(model)
        buffers = tuple(name for name, _ in model.named_buffers(remove_duplicate=False) if name in weights)
        return Held(personal, message.weights), Moved(weights, len(view.train), buffers), {"loss": total / len(examples)}

    def envelope_step(self, theta: list[nn.Parameter], shared: list[Tensor], loss: Callable[[], Tensor]) -> float:
        """Move `theta` by K steps on the loss and the tie, then `shared` towards it, both in place; return the last loss."""
        value = torch.zeros(())
        for _ in range(self.personal_steps):
            value = loss()
            gradients = gradients_of(value, theta)
            with torch.no_grad():
                for own, gradient, held in zip(theta, gradients, shared, strict=True):
                    own.sub_(gradient + self.envelope * (own - held), alpha=self.personal_learning_rate)
        with torch.no_grad():
            for own, held in zip(theta, shared, strict=True):
                held.lerp_(own, self.shared_learning_rate * self.envelope)
        return value.item()

    def faults(  # pyright: ignore[reportIncompatibleMethodOverride]  - replies are of reply_type
        self, server: Shared, replies: Mapping[str, Moved], view: ServerView
    ) -> dict[str, str]:
        """Return what those of other homogeneous methods have, or name buffers that are not among the weights."""
        strays = {client: sorted(set(one.buffers) - one.weights.keys()) for client, one in replies.items()}
        named = {client: f"its buffers {names[:3]} are not among its weights" for client, names in strays.items() if names}
        return named | super().faults(server, replies, view)

    def server_step(  # pyright: ignore[reportIncompatibleMethodOverride]  - replies are of reply_type
        self, server: Shared, replies: Mapping[str, Moved], view: ServerView
    ) -> tuple[Shared, Metrics]:
        """Return the mixture of the old model and the plain mean of the replies; of the mean alone in the first round."""
        new = mean(replies, by_examples=False)
        if (old := server.weights) is None:
            return Shared(new), {}
        buffers = {name: new[name] for name in replies[min(replies)].buffers}
        return Shared(mixed(old, new, self.mixing) | mixed(old, buffers, min(1.0, self.mixing))), {}
