"""FedAvg: the mean of all networks, trained on by each client.

B. McMahan, E. Moore, D. Ramage, S. Hampson, B. Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", AISTATS 2017, arXiv 1602.05629, algorithm 1. Up: weights and the number of examples. Down: the mean.

Departures: Adam instead of SGD, as in every method here; the float buffers of batch norms are averaged with the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from pfedhr.algorithm import ClientView, Metrics
from pfedhr.algorithms.held import Held, Shared
from pfedhr.algorithms.homogeneous import Homogeneous, Trained, received
from pfedhr.algorithms.private import train_privately


@dataclass(frozen=True)
class FedAvg(Homogeneous):
    """Federated averaging."""

    name = "fedavg"
    uncovered = None

    def client_step(self, state: Held, message: Shared, view: ClientView) -> tuple[Held, Trained, Metrics]:
        """Train the shared model on the private examples."""
        weights, metrics = train_privately(view, received(message, view))
        return Held(weights, message.weights), Trained(weights, len(view.train)), metrics
