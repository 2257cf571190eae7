"""What methods share whose clients keep the shared weights that they were given last beside their own."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pfedhr.algorithm import Algorithm, ClientView, ServerView
from pfedhr.algorithms.private import restore
from pfedhr.models import ModelSpec
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


class SendsShared(Algorithm):
    """A method whose server keeps one set of weights, and sends it to all."""

    server_state = Shared
    message_type = Shared

    def init_server(self, view: ServerView) -> Shared:
        """Return no weights yet."""
        return Shared(None)

    def message(self, server: Shared, client: str) -> Shared:
        """Return the shared weights."""
        return server


class KeepsShared(Algorithm):
    """A method whose clients are served by their own network after its own last training.

    The shared one that they were given stands in the teacher's place, to be scored beside it.
    """

    client_state = Held

    def personal_model(self, state: Held, view: ClientView) -> nn.Module:
        """Return the client's network after its own training."""
        return restore(view.network, state.weights)

    def teacher_model(self, state: Held, view: ClientView) -> nn.Module | None:
        """Return the shared network that the client was given last."""
        return restore(self.shared_network(view), state.shared) if state.shared else None

    def shared_network(self, view: ClientView) -> ModelSpec:
        """Return what the shared network is made of: what the client's is, unless a method says otherwise."""
        return view.network
