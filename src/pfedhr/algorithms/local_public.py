"""Each client alone, with the labelled public examples beside its own: what a federation adds beyond these labels.

Nothing goes up; the public data is what clients hold already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from pfedhr.algorithm import Algorithm, ClientView, Metrics, ServerView, Setup
from pfedhr.algorithms.needs import public_labels
from pfedhr.algorithms.nothing import Nothing, Own
from pfedhr.algorithms.private import initial_weights, restore, train, train_privately, weights_of
from pfedhr.data import Examples
from pfedhr.learning import Training


@dataclass(frozen=True)
class LocalPublic(Algorithm):
    """In each round a client trains on the public labels, then on its own examples."""

    public_epochs: int = 3
    """Epochs on the public examples in a round; pFedHR's server tunes for as many."""

    name = "local-public"
    server_state = Nothing
    client_state = Own
    message_type = Nothing
    reply_type = Nothing

    def check(self, setup: Setup) -> None:
        """Raise SettingError if the public data has no labels."""
        public_labels(self, setup)

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
        """Train on the public examples, then on the private ones."""
        public = view.public.ready(view.device)
        assert isinstance(public, Examples)
        model = restore(view.network, state.weights).to(view.device)

        def loss(model: nn.Module, batch: Tensor) -> Tensor:
            return functional.cross_entropy(model(public.inputs[batch]), public.labels[batch])

        own = view.training
        training = Training(self.public_epochs, own.batch_size, own.learning_rate, own.weight_decay)
        train(view, model, loss, "public", training, len(public))
        weights, metrics = train_privately(view, weights_of(model))
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
