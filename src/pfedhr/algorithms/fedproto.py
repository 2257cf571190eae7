"""FedProto: networks of any extractor share the mean features of each class.

Y. Tan, G. Long, L. Liu, T. Zhou, Q. Lu, J. Jiang, C. Zhang, "FedProto: Federated Prototype Learning across Heterogeneous
Clients", AAAI 2022, arXiv 2105.00243. A client minimises CE + lambda times the distance of each example's features from its
class's global prototype. Up: a mean of features for each class that the client holds, and how many examples it has of it. Down:
their means over clients, by these numbers.

Departures: prototypes are taken in one pass after training, not while weights change; those of clients that do not take part
in a round stay as they were sent last. What serves a client is its own head by default, one of the two that the authors' code
reports. The other is the class of the nearest prototype, `prediction = "prototypes"`: theirs are the server's newest, here they
are those that the client was given before it trained, because nothing goes down after a round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pfedhr.algorithm import Metrics, ServerView
from pfedhr.algorithms.per_class import ClassMeans, Down, Latest, merge
from pfedhr.algorithms.prototypes import Prototypical


@dataclass(frozen=True)
class ServerTable:
    """The server's state: what every client sent last, and the table made of it."""

    latest: Latest
    down: Down


@dataclass(frozen=True)
class FedProto(Prototypical):
    """Federated prototype learning."""

    name = "fedproto"
    counted = True
    server_state = ServerTable

    def init_server(self, view: ServerView) -> ServerTable:
        """Return no prototypes."""
        return ServerTable(Latest({}), Down(None))

    def message(self, server: ServerTable, client: str) -> Down:
        """Return the global prototypes."""
        return server.down

    def server_step(
        self, server: ServerTable, replies: Mapping[str, ClassMeans], view: ServerView
    ) -> tuple[ServerTable, Metrics]:
        """Return the mean prototypes of everyone's last ones."""
        latest = server.latest.after(replies)
        return ServerTable(latest, Down(merge(latest.sent, view.classes))), {}
