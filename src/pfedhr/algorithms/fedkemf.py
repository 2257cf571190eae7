"""FedKEMF: a small network carries knowledge between clients of any structure; the server fuses them on public data.

S. Yu, W. Qian, A. Jannesari, "Resource-aware Federated Learning using Knowledge Extraction and Multi-model Fusion", 2022, arXiv
2208.07978. A client trains its own network and a copy of the knowledge network beside each other, each by cross entropy plus
the divergence from the other's predictions, which teach it as constants. The server takes the ensemble of the knowledge
networks that came back and lowers KL(ensemble || knowledge network) on public inputs. Up and down: the weights of the knowledge
network.

Departures: the server uses no labels, no temperature, and the same public inputs in every round; no majority vote; Adam
throughout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pfedhr.algorithm import ClientView, Metrics, PublicUse, ServerView, Setup
from pfedhr.algorithms.held import Held, Shared
from pfedhr.algorithms.mutual import CommonWeights, Mutual
from pfedhr.algorithms.needs import above_zero, at_least
from pfedhr.algorithms.private import or_common, restore, weights_of
from pfedhr.algorithms.public_training import finite, towards, train_publicly
from pfedhr.algorithms.stopwatch import Stopwatch
from pfedhr.inference import predict
from pfedhr.learning import Training, distil, soft_targets

Ensemble = Literal["average", "maximum"]


@dataclass(frozen=True)
class FedKEMF(Mutual):
    """Knowledge extraction and multi-model fusion."""

    distil_weight: float = 1.0
    """Weight of what the two networks of a client teach each other."""
    ensemble: Ensemble = "average"
    """average: the mean of the probabilities; maximum: the largest logit of each class."""
    tuning_epochs: int = 5
    """Epochs of the server's distillation on the public inputs."""
    tuning_batch_size: int = 64
    """Batch size of it."""
    tuning_learning_rate: float = 0.001
    """Learning rate of it."""

    name = "fedkemf"
    uncovered = None

    def check(self, setup: Setup) -> None:
        """Raise SettingError for a setting out of range, or a common network that cannot be trained."""
        at_least(self, distil_weight=0, tuning_epochs=1, tuning_batch_size=1)
        above_zero(self, "tuning_learning_rate")
        super().check(setup)

    def public_use(self, labelled: bool) -> PublicUse:
        """Return inputs at the server: labels are not used."""
        return "inputs at the server"

    def client_step(self, state: Held, message: Shared, view: ClientView) -> tuple[Held, CommonWeights, Metrics]:
        """Train the client's own network and the knowledge network by deep mutual learning."""

        def loss(own: Tensor, common: Tensor, labels: Tensor) -> Tensor:
            alone = functional.cross_entropy(own, labels) + functional.cross_entropy(common, labels)
            return alone + self.distil_weight * (distil(own, soft_targets(common)) + distil(common, soft_targets(own)))

        held, common, metrics = self.learn_together(state, message, view, loss)
        return held, CommonWeights(common), metrics

    def server_step(self, server: Shared, replies: Mapping[str, CommonWeights], view: ServerView) -> tuple[Shared, Metrics]:
        """Distil the ensemble into the knowledge network on the public inputs."""
        watch = Stopwatch()
        inputs = view.public.ready(view.device).inputs
        network = self.common(view.shape, view.classes)
        with watch("ensemble"):
            sent = ((client, restore(network, replies[client].weights).to(view.device)) for client in sorted(replies))
            said = [logits for client, model in sent if finite(logits := predict(model, inputs), client)]
        if not said:  # nothing to learn from
            return server, {"distil_loss": None, **watch.seconds}
        with watch("tune"):
            model = restore(network, or_common(server.weights, network, view.seed)).to(view.device)
            training = Training(self.tuning_epochs, self.tuning_batch_size, self.tuning_learning_rate)
            targets = ensemble(torch.stack(said), self.ensemble)
            last = train_publicly(model, towards(targets, inputs), training, view, "distilling the ensemble", "fusion")
        return Shared(weights_of(model)), {"distil_loss": last, **watch.seconds}


def ensemble(logits: Tensor, kind: Ensemble) -> Tensor:
    """Return the logarithms (n, classes) of what networks say together, given the `logits` (networks, n, classes) of each."""
    if kind == "maximum":
        return soft_targets(logits.amax(0))
    return functional.log_softmax(logits, dim=2).logsumexp(0) - math.log(len(logits))
