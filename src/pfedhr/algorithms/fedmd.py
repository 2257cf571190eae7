"""FedMD: networks of any structure agree on public data.

D. Li, J. Wang, "FedMD: Heterogenous Federated Learning via Model Distillation", NeurIPS 2019 workshop, arXiv 1910.03581. A
client first trains on the labelled public data. In a round it moves its logits on public examples towards the clients' mean by
the mean absolute difference, then trains on its own examples. Up: its logits on a subset of the public data that changes each
round. Down: the mean of the logits sent last, and which round's subset they are of. Every client holds the public data.

Departures: one exchange a round, so the consensus that a client learns is of the round before; a client pre-trains when it
first takes part; no early stopping, for which there is no data; the plan's Adam throughout, its weight decay on the public
steps, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn import functional

from pfedhr.algorithm import ClientView, Metrics, PublicUse, Setup
from pfedhr.algorithms.consensus import ByConsensus, Consensus, PublicLogits
from pfedhr.algorithms.needs import at_least, public_batches, public_labels
from pfedhr.algorithms.own import Own
from pfedhr.algorithms.private import initial_weights, restore, train_model, train_on_public, weights_of


@dataclass(frozen=True)
class Pupil(Own):
    """A client's state: its weights, and whether it has trained on the public labels."""

    prepared: bool


@dataclass(frozen=True)
class FedMD(ByConsensus):
    """Federated learning by model distillation on public data."""

    pretraining_epochs: int = 3
    """Epochs on the public labels when a client first takes part; 0 needs no labels."""

    name = "fedmd"
    uncovered = None
    client_state = Pupil

    def check(self, setup: Setup) -> None:
        """Raise what ByConsensus does, SettingError for settings out of range, or for no labels where clients pre-train."""
        at_least(self, pretraining_epochs=0)
        if self.pretraining_epochs:
            public_labels(self, setup, ", or algorithm.pretraining_epochs = 0")
            public_batches(setup, "plan.batch_size", setup.training.batch_size)
        super().check(setup)

    def public_use(self, labelled: bool) -> PublicUse:
        """Return labels if clients pre-train on them, else inputs."""
        return "labels at clients" if self.pretraining_epochs else "inputs at clients"

    def init_client(self, view: ClientView) -> Pupil:
        """Return the client's initial weights, before it has seen public data."""
        return Pupil(initial_weights(view), False)

    def client_step(self, state: Pupil, message: Consensus, view: ClientView) -> tuple[Pupil, PublicLogits, Metrics]:
        """Prepare if need be, digest the consensus, revisit the private examples, score the round's subset."""
        model = restore(view.network, state.weights).to(view.device)
        if not state.prepared and self.pretraining_epochs:
            train_on_public(view, model, self.pretraining_epochs)
        digest = self.approach(view, model, message, functional.l1_loss, "digest")
        metrics = {**train_model(view, model), **digest}
        return Pupil(weights_of(model), True), self.public_logits(view, model), metrics
