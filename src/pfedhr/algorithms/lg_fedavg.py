"""LG-FedAvg: networks of any structure share their last layer.

P. P. Liang, T. Liu, L. Ziyin, N. B. Allen, R. P. Auerbach, D. Brent, R. Salakhutdinov, L.-P. Morency, "Think Locally, Act
Globally: Federated Learning with Local and Global Representations", arXiv 2001.01523. Up: the head and the number of examples.
Down: the mean of heads.

Departures: from random weights, not from a model of FedAvg, which networks that differ cannot have; the mean is by examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pfedhr.algorithm import ClientView, Metrics, ServerView
from pfedhr.algorithms.held import Shared
from pfedhr.algorithms.homogeneous import Trained, mean, trained_faults
from pfedhr.algorithms.own import Own
from pfedhr.algorithms.private import train_privately
from pfedhr.algorithms.shared_head import SharedHead, take_head, with_head


@dataclass(frozen=True)
class LGFedAvg(SharedHead):
    """Local representations, one global head."""

    name = "lg-fedavg"
    uncovered = None
    reply_type = Trained

    def client_step(self, state: Own, message: Shared, view: ClientView) -> tuple[Own, Trained, Metrics]:
        """Train the whole network with the head that came."""
        weights, metrics = train_privately(view, with_head(view.network, state, message))
        return Own(weights), Trained(take_head(view.network, weights), len(view.train)), metrics

    def faults(self, server: Shared, replies: Mapping[str, Trained], view: ServerView) -> dict[str, str]:
        """Return which replies are of other heads than the shared one, or of no examples."""
        return trained_faults(server, replies)

    def server_step(self, server: Shared, replies: Mapping[str, Trained], view: ServerView) -> tuple[Shared, Metrics]:
        """Return the mean of the heads by examples."""
        return Shared(mean(replies)), {}
