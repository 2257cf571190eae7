"""What methods share whose clients keep a network of their own and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from pfedhr.algorithm import Algorithm, ClientView, Metrics, ServerView
from pfedhr.algorithms.private import initial_weights, restore
from pfedhr.parcel import Tensors


@dataclass(frozen=True)
class Nothing:
    """No state, or no content."""


@dataclass(frozen=True)
class Own:
    """A client's own weights."""

    weights: Tensors


class OwnNetwork(Algorithm):
    """A method whose clients begin with their own initial weights, keep their weights alone, and have no teacher."""

    client_state = Own

    def init_client(self, view: ClientView) -> Own:
        """Return the client's initial weights."""
        return Own(initial_weights(view))

    def personal_model(self, state: Own, view: ClientView) -> nn.Module:
        """Return the client's network."""
        return restore(view.network, state.weights)

    def teacher_model(self, state: Own, view: ClientView) -> None:
        """Return None: there is no teacher."""
        return


class Alone(OwnNetwork):
    """A method without a federation: nothing goes up or down."""

    server_state = Nothing
    message_type = Nothing
    reply_type = Nothing

    def init_server(self, view: ServerView) -> Nothing:
        """Return nothing."""
        return Nothing()

    def message(self, server: Nothing, client: str) -> Nothing:
        """Return nothing."""
        return Nothing()

    def server_step(self, server: Nothing, replies: Mapping[str, Nothing], view: ServerView) -> tuple[Nothing, Metrics]:
        """Do nothing."""
        return server, {}
