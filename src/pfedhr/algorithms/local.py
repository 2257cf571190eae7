"""Each client alone: what every method is measured against. Nothing goes up or down."""

from __future__ import annotations

from dataclasses import dataclass

from pfedhr.algorithm import ClientView, Metrics, Setup
from pfedhr.algorithms.own import Alone, Nothing, Own
from pfedhr.algorithms.private import train_privately


@dataclass(frozen=True)
class Local(Alone):
    """Every client trains on its own examples by cross entropy, in the rounds in which it is selected."""

    name = "local"
    uncovered = None

    def check(self, setup: Setup) -> None:
        """Accept everything."""

    def client_step(self, state: Own, message: Nothing, view: ClientView) -> tuple[Own, Nothing, Metrics]:
        """Train."""
        weights, metrics = train_privately(view, state.weights)
        return Own(weights), Nothing(), metrics
