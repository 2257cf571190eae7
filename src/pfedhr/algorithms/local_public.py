"""Each client alone, with the labelled public examples beside its own: what a federation adds beyond these labels.

Nothing goes up; the public data is what clients hold already.
"""

from __future__ import annotations

from dataclasses import dataclass

from pfedhr.algorithm import ClientView, Metrics, PublicUse, Setup
from pfedhr.algorithms.needs import at_least, public_batches, public_labels
from pfedhr.algorithms.own import Alone, Nothing, Own
from pfedhr.algorithms.private import restore, train_model, train_on_public, weights_of


@dataclass(frozen=True)
class LocalPublic(Alone):
    """In each round a client trains on the public labels, then on its own examples."""

    public_epochs: int = 3
    """Epochs on the public examples in a round, 3 as the server of pFedHR's paper tunes for; 0 needs no labels."""

    name = "local-public"
    uncovered = None

    def check(self, setup: Setup) -> None:
        """Raise SettingError for public data without labels or negative epochs, ModelError for a last batch of one."""
        at_least(self, public_epochs=0)
        if self.public_epochs:
            public_labels(self, setup, ", or algorithm.public_epochs = 0")
            public_batches(setup, "plan.batch_size", setup.training.batch_size)

    def public_use(self, labelled: bool) -> PublicUse:
        """Return labels, which every client holds, unless there are no epochs on them."""
        return "labels at clients" if self.public_epochs else "none"

    def client_step(self, state: Own, message: Nothing, view: ClientView) -> tuple[Own, Nothing, Metrics]:
        """Train on the public examples, then on the private ones."""
        model = restore(view.network, state.weights).to(view.device)
        if self.public_epochs:
            train_on_public(view, model, self.public_epochs)
        metrics = train_model(view, model)
        return Own(weights_of(model)), Nothing(), metrics
