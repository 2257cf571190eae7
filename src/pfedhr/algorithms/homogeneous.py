"""What methods share that average whole networks of one structure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from pfedhr.algorithm import Algorithm, ClientView, Metrics, ServerView, Setup
from pfedhr.algorithms.averaging import weighted_mean
from pfedhr.algorithms.needs import one_structure
from pfedhr.algorithms.private import common_weights, restore
from pfedhr.parcel import Tensors


@dataclass(frozen=True)
class Shared:
    """The server's model, as its state and as what goes down; None before the first round, when clients make it themselves."""

    weights: Tensors | None


@dataclass(frozen=True)
class Held:
    """A client's own weights after its training, and the shared ones that it was given last."""

    weights: Tensors
    shared: Tensors | None


@dataclass(frozen=True)
class Trained:
    """What goes up: weights, and how many examples they saw."""

    weights: Tensors
    examples: int


class Homogeneous(Algorithm):
    """A method whose server keeps the mean of the clients' networks. A method adds its client's step.

    All clients begin with one model, which its name under the seed gives to each. What serves a client is its network after
    its own last training; the shared model that it was given stands in the teacher's place, to be scored beside it.
    """

    server_state = Shared
    client_state = Held
    message_type = Shared
    reply_type = Trained

    def check(self, setup: Setup) -> None:
        """Raise SettingError if clients have several structures."""
        one_structure(self, setup)

    def init_server(self, view: ServerView) -> Shared:
        """Return no model yet."""
        return Shared(None)

    def init_client(self, view: ClientView) -> Held:
        """Return the initial weights that all clients begin with."""
        return Held(common_weights(view.network, view.seed), None)

    def message(self, server: Shared, client: str) -> Shared:
        """Return the shared model."""
        return server

    def server_step(self, server: Shared, replies: Mapping[str, Trained], view: ServerView) -> tuple[Shared, Metrics]:
        """Return the mean of the replies by their examples, or what was where there are none."""
        if not replies:
            return server, {}
        return Shared(mean(replies)), {}

    def personal_model(self, state: Held, view: ClientView) -> nn.Module:
        """Return the client's network after its own training."""
        return restore(view.network, state.weights)

    def teacher_model(self, state: Held, view: ClientView) -> nn.Module | None:
        """Return the shared model that the client was given last."""
        return restore(view.network, state.shared) if state.shared else None


def mean(replies: Mapping[str, Trained], by_examples: bool = True) -> Tensors:
    """Return the mean of the replies, at least one, by their examples or plainly."""
    sent = [replies[client] for client in sorted(replies)]
    return weighted_mean([one.weights for one in sent], [one.examples if by_examples else 1 for one in sent])


def received(message: Shared, view: ClientView) -> Tensors:
    """Return the weights to begin a round with: the shared ones, or before the first mean those that all make themselves."""
    return common_weights(view.network, view.seed) if message.weights is None else message.weights
