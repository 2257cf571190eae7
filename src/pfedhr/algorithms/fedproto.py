"""FedProto: networks of any extractor share the mean features of each class.

Y. Tan, G. Long, L. Liu, T. Zhou, Q. Lu, J. Jiang, C. Zhang, "FedProto: Federated Prototype Learning across Heterogeneous
Clients", AAAI 2022, arXiv 2105.00243. A client minimises CE + lambda times the distance of each example's features from its
class's global prototype. Up: a mean of features for each class that the client holds. Down: their means over clients, by
examples. What serves a client is the class of the nearest prototype.

Departures: prototypes are taken in one pass after training, not while weights change; those of clients that do not take part
in a round stay as they were sent last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from pfedhr.algorithm import Algorithm, ClientView, Metrics, ServerView, Setup
from pfedhr.algorithms.needs import at_least, common_features
from pfedhr.algorithms.per_class import (
    ClassMeans,
    Down,
    Guided,
    Latest,
    merge,
    nearest_or_head,
    on,
    private_means,
    pull,
    train_with_features,
)
from pfedhr.algorithms.private import initial_weights


@dataclass(frozen=True)
class ServerTable:
    """The server's state: what every client sent last, and the table made of it."""

    latest: Latest
    down: Down


@dataclass(frozen=True)
class FedProto(Algorithm):
    """Federated prototype learning."""

    prototype_weight: float = 1.0
    """Weight of the distance from the prototypes (lambda); the distance is a mean over the features."""

    name = "fedproto"
    server_state = ServerTable
    client_state = Guided
    message_type = Down
    reply_type = ClassMeans

    def check(self, setup: Setup) -> None:
        """Raise SettingError for features of several widths, or a negative weight."""
        at_least(self, prototype_weight=0)
        common_features(self, setup)

    def init_server(self, view: ServerView) -> ServerTable:
        """Return no prototypes."""
        return ServerTable(Latest({}), Down(None))

    def init_client(self, view: ClientView) -> Guided:
        """Return the client's initial weights and no prototypes."""
        return Guided(initial_weights(view), None)

    def message(self, server: ServerTable, client: str) -> Down:
        """Return the global prototypes."""
        return server.down

    def client_step(self, state: Guided, message: Down, view: ClientView) -> tuple[Guided, ClassMeans, Metrics]:
        """Train near the prototypes, then take the client's own."""
        term = None
        if message.table is not None and self.prototype_weight:
            table = on(message.table, view.device)
            term = lambda features, logits, labels: self.prototype_weight * pull(features, labels, table)  # noqa: E731
        weights, metrics = train_with_features(view, state.weights, term)
        return Guided(weights, message.table), private_means(view, weights), metrics

    def server_step(
        self, server: ServerTable, replies: Mapping[str, ClassMeans], view: ServerView
    ) -> tuple[ServerTable, Metrics]:
        """Return the mean prototypes of everyone's last ones."""
        latest = server.latest.after(replies)
        return ServerTable(latest, Down(merge(latest.sent, view.classes, by_examples=True))), {}

    def personal_model(self, state: Guided, view: ClientView) -> nn.Module:
        """Return the network that says the class of the nearest prototype."""
        return nearest_or_head(state, view)

    def teacher_model(self, state: Guided, view: ClientView) -> None:
        """Return None: there is no teacher."""
        return
