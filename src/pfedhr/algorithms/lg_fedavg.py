"""LG-FedAvg: networks of any structure share their last layer.

P. P. Liang, T. Liu, L. Ziyin, N. B. Allen, R. P. Auerbach, D. Brent, R. Salakhutdinov, L.-P. Morency, "Think Locally, Act
Globally: Federated Learning with Local and Global Representations", arXiv 2001.01523. Up: the head and the number of examples.
Down: the mean of heads.

Departures: from random weights, not from a model of FedAvg, which networks that differ cannot have; the mean is by examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from pfedhr.algorithm import Algorithm, ClientView, Metrics, ServerView, Setup
from pfedhr.algorithms.averaging import weighted_mean
from pfedhr.algorithms.homogeneous import Shared, Trained
from pfedhr.algorithms.needs import common_features
from pfedhr.algorithms.nothing import Own
from pfedhr.algorithms.private import initial_weights, put_head, restore, take_head, train_privately


@dataclass(frozen=True)
class LGFedAvg(Algorithm):
    """Local representations, one global head."""

    name = "lg-fedavg"
    server_state = Shared
    client_state = Own
    message_type = Shared
    reply_type = Trained

    def check(self, setup: Setup) -> None:
        """Raise SettingError unless all heads have one shape."""
        common_features(self, setup)

    def init_server(self, view: ServerView) -> Shared:
        """Return no head yet."""
        return Shared(None)

    def init_client(self, view: ClientView) -> Own:
        """Return the client's initial weights."""
        return Own(initial_weights(view))

    def message(self, server: Shared, client: str) -> Shared:
        """Return the mean head."""
        return server

    def client_step(self, state: Own, message: Shared, view: ClientView) -> tuple[Own, Trained, Metrics]:
        """Train the whole network with the head that came."""
        start = put_head(view.network, state.weights, message.weights) if message.weights else state.weights
        weights, metrics = train_privately(view, start)
        return Own(weights), Trained(take_head(view.network, weights), len(view.train)), metrics

    def server_step(self, server: Shared, replies: Mapping[str, Trained], view: ServerView) -> tuple[Shared, Metrics]:
        """Return the mean of the heads by examples."""
        if not replies:
            return server, {}
        sent = [replies[client] for client in sorted(replies)]
        return Shared(weighted_mean([one.weights for one in sent], [one.examples for one in sent])), {}

    def personal_model(self, state: Own, view: ClientView) -> nn.Module:
        """Return the client's network after its own training."""
        return restore(view.network, state.weights)

    def teacher_model(self, state: Own, view: ClientView) -> None:
        """Return None: there is no teacher."""
        return
