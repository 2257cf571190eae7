"""Each client alone: what every method is measured against. Nothing goes up or down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from pfedhr.algorithm import Algorithm, ClientView, Metrics, ServerView, Setup
from pfedhr.algorithms.nothing import Nothing, Own
from pfedhr.algorithms.private import initial_weights, restore, train_privately


@dataclass(frozen=True)
class Local(Algorithm):
    """Every client trains on its own examples by cross entropy, in the rounds in which it is selected."""

    name = "local"
    server_state = Nothing
    client_state = Own
    message_type = Nothing
    reply_type = Nothing

    def check(self, setup: Setup) -> None:
        """Accept everything."""

    def init_server(self, view: ServerView) -> Nothing:
        """Return nothing."""
        return Nothing()

    def init_client(self, view: ClientView) -> Own:
        """Return the client's initial weights."""
        return Own(initial_weights(view))

    def message(self, server: Nothing, client: str) -> Nothing:
        """Return nothing."""
        return Nothing()

    def client_step(self, state: Own, message: Nothing, view: ClientView) -> tuple[Own, Nothing, Metrics]:
        """Train."""
        weights, metrics = train_privately(view, state.weights)
        return Own(weights), Nothing(), metrics

    def server_step(self, server: Nothing, replies: Mapping[str, Nothing], view: ServerView) -> tuple[Nothing, Metrics]:
        """Do nothing."""
        return server, {}

    def personal_model(self, state: Own, view: ClientView) -> nn.Module:
        """Return the client's network."""
        return restore(view.network, state.weights)

    def teacher_model(self, state: Own, view: ClientView) -> None:
        """Return None: a client alone has no teacher."""
        return
