"""What methods share whose clients agree on public examples: the mean of their logits goes down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from pfedhr.algorithm import ClientView, Metrics, ServerView, Setup
from pfedhr.algorithms.admission import misshapen
from pfedhr.algorithms.needs import at_least, public_batches
from pfedhr.algorithms.own import OwnNetwork
from pfedhr.algorithms.private import train_beside
from pfedhr.inference import predict
from pfedhr.learning import steady
from pfedhr.seeding import generator

Distance = Callable[[Tensor, Tensor], Tensor]
"""Maps a client's logits and the consensus, each (batch, classes), to a scalar."""


@dataclass(frozen=True)
class Consensus:
    """The server's state, and what goes down: mean logits (k, classes) on the subset of `round`, None before there are any."""

    logits: Tensor | None
    round: int


@dataclass(frozen=True)
class PublicLogits:
    """What goes up: logits (k, classes) on the round's subset of the public data."""

    logits: Tensor


@dataclass(frozen=True)
class ByConsensus(OwnNetwork):
    """A method whose clients send their logits on a round's public subset and get their mean. It adds the client's step."""

    public_examples: int = 5000
    """How many public examples the clients score in a round, at most."""
    consensus_epochs: int = 1
    """Epochs of moving towards the consensus."""
    consensus_batch_size: int = 256
    """Batch size of it."""

    fewest: ClassVar[int] = 1
    """How many public examples it takes at once to move towards a consensus."""
    server_state = Consensus
    message_type = Consensus
    reply_type = PublicLogits

    def check(self, setup: Setup) -> None:
        """Raise SettingError for settings out of range, ModelError for a network that cannot be trained in these batches."""
        at_least(self, public_examples=self.fewest, consensus_epochs=0, consensus_batch_size=self.fewest)
        if self.consensus_epochs:
            public_batches(setup, "algorithm.consensus_batch_size", self.consensus_batch_size, self.public_examples)

    def init_server(self, view: ServerView) -> Consensus:
        """Return no logits."""
        return Consensus(None, 0)

    def message(self, server: Consensus, client: str) -> Consensus:
        """Return the consensus."""
        return server

    def faults(self, server: Consensus, replies: Mapping[str, PublicLogits], view: ServerView) -> dict[str, str]:
        """Return which replies are no logits on the round's public subset."""
        shape = min(self.public_examples, len(view.public)), view.classes
        return misshapen({client: one.logits for client, one in replies.items()}, shape)

    def server_step(
        self, server: Consensus, replies: Mapping[str, PublicLogits], view: ServerView
    ) -> tuple[Consensus, Metrics]:
        """Return the mean of the logits."""
        return Consensus(torch.stack([replies[client].logits for client in sorted(replies)]).mean(0), view.round), {}

    def approach(self, view: ClientView, model: nn.Module, message: Consensus, distance: Distance, purpose: str) -> Metrics:
        """Train `model` in place towards the consensus, if there is one, and return the last loss."""
        if message.logits is None or not self.consensus_epochs:
            return {}
        inputs = self.public_inputs(view, message.round)
        logits = message.logits.to(view.device)

        def loss(model: nn.Module, batch: Tensor) -> Tensor:
            return distance(model(inputs[batch]), logits[batch])

        training = replace(view.training, epochs=self.consensus_epochs, batch_size=self.consensus_batch_size)
        return {"consensus_loss": train_beside(view, model, steady(loss), purpose, training, len(inputs))}

    def public_logits(self, view: ClientView, model: nn.Module) -> PublicLogits:
        """Return what goes up: what `model` says of the round's public subset."""
        return PublicLogits(predict(model, self.public_inputs(view, view.round)).cpu())

    def public_inputs(self, view: ClientView, round: int) -> Tensor:
        """Return the public inputs that all clients score in `round`, on the view's device."""
        order = torch.randperm(len(view.public), generator=generator(view.seed, round, "alignment"))
        return view.public.take(order[: self.public_examples]).ready(view.device).inputs
