"""What methods share that average whole networks of one structure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pfedhr.algorithm import ClientView, Metrics, ServerView, Setup
from pfedhr.algorithms.admission import miscounted, unlike
from pfedhr.algorithms.averaging import plain_mean, weighted_mean
from pfedhr.algorithms.held import Held, KeepsShared, SendsShared, Shared
from pfedhr.algorithms.needs import one_structure
from pfedhr.algorithms.private import common_weights, or_common
from pfedhr.parcel import Tensors


@dataclass(frozen=True)
class Trained:
    """What goes up: weights, and how many examples they saw."""

    weights: Tensors
    examples: int


class Homogeneous(SendsShared, KeepsShared):
    """A method whose server keeps the mean of the clients' networks. A method adds its client's step.

    All clients begin with one model, which its name under the seed gives to each.
    """

    reply_type = Trained

    def check(self, setup: Setup) -> None:
        """Raise SettingError if clients have several structures."""
        one_structure(self, setup)

    def init_client(self, view: ClientView) -> Held:
        """Return the initial weights that all clients begin with."""
        return Held(common_weights(view.network, view.seed), None)

    def faults(self, server: Shared, replies: Mapping[str, Trained], view: ServerView) -> dict[str, str]:
        """Return which replies are of other weights than the shared ones, or of no examples."""
        return trained_faults(server, replies)

    def server_step(self, server: Shared, replies: Mapping[str, Trained], view: ServerView) -> tuple[Shared, Metrics]:
        """Return the mean of the replies by their examples."""
        return Shared(mean(replies)), {}


def trained_faults(server: Shared, replies: Mapping[str, Trained]) -> dict[str, str]:
    """Return which replies are of other weights than the shared ones, or of no examples."""
    return miscounted(replies) | unlike({client: one.weights for client, one in replies.items()}, server.weights)


def mean(replies: Mapping[str, Trained], by_examples: bool = True) -> Tensors:
    """Return the mean of the replies, at least one, by their examples or plainly."""
    sent = [replies[client] for client in sorted(replies)]
    weights = [one.weights for one in sent]
    return weighted_mean(weights, [one.examples for one in sent]) if by_examples else plain_mean(weights)


def received(message: Shared, view: ClientView) -> Tensors:
    """Return the weights to begin a round with: the shared ones, or before the first mean those that all make themselves."""
    return or_common(message.weights, view.network, view.seed)
