"""What methods share whose clients keep their features near a global prototype of each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pfedhr.algorithm import Algorithm, ClientView, Metrics, ServerView, Setup
from pfedhr.algorithms.admission import unclassed
from pfedhr.algorithms.needs import at_least, common_features
from pfedhr.algorithms.per_class import ClassMeans, ClassTable, Down, on, private_means
from pfedhr.algorithms.private import initial_weights, restore, train, weights_of
from pfedhr.heads import Extractor
from pfedhr.learning import steady
from pfedhr.parcel import Tensors


@dataclass(frozen=True)
class Guided:
    """A client's state: its weights, and the table that it was given last."""

    weights: Tensors
    table: ClassTable | None


@dataclass(frozen=True)
class Prototypical(Algorithm):
    """A method of prototypes. It adds the server that makes them."""

    prototype_weight: float = 1.0
    """Weight of the distance from the prototypes (lambda); the distance is a mean over the features."""
    prediction: Literal["head", "prototypes"] = "head"
    """What serves a client: its network's own head, or the nearest of the prototypes that it was given last, where these have
    one of each class that it holds."""

    counted: ClassVar[bool] = False
    """Whether clients say how many examples of each class they have."""
    client_state = Guided
    uncovered = "clients send the mean features of their private examples, which no noise covers"
    message_type = Down
    reply_type = ClassMeans

    def check(self, setup: Setup) -> None:
        """Raise SettingError for features of several widths, or a negative weight."""
        at_least(self, prototype_weight=0)
        common_features(self, setup)

    def init_client(self, view: ClientView) -> Guided:
        """Return the client's initial weights and no prototypes."""
        return Guided(initial_weights(view), None)

    def faults(self, server: Any, replies: Mapping[str, ClassMeans], view: ServerView) -> dict[str, str]:
        """Return which replies are no class means of features as wide as those that the server has."""
        width = next((one.means.shape[1] for one in server.latest.sent.values()), None)
        return unclassed(replies, view.classes, width, self.counted)

    def client_step(self, state: Guided, message: Down, view: ClientView) -> tuple[Guided, ClassMeans, Metrics]:
        """Train near the prototypes, then take the client's own."""
        examples = view.train.ready(view.device)
        extractor = Extractor(restore(view.network, state.weights).to(view.device), view.network.classes)
        table = on(message.table, view.device) if message.table and self.prototype_weight else None

        def loss(_: nn.Module, batch: Tensor) -> Tensor:
            features, logits = extractor(examples.inputs[batch])
            labels = examples.labels[batch]
            value = functional.cross_entropy(logits, labels)
            return value if table is None else value + self.prototype_weight * pull(features, labels, table)

        last = train(view, extractor.model, steady(loss))
        weights = weights_of(extractor.model)
        return Guided(weights, message.table), private_means(view, weights, self.counted), {"loss": last}

    def personal_model(self, state: Guided, view: ClientView) -> nn.Module:
        """Return the client's network, or what says the nearest prototype's class, once there is one of each of its classes."""
        model = restore(view.network, state.weights)
        if self.prediction == "head" or state.table is None or not state.table.known[view.train.labels.cpu()].all():
            return model
        return NearestRow(model, view.network.classes, state.table)

    def teacher_model(self, state: Guided, view: ClientView) -> None:
        """Return None: there is no teacher."""
        return


def pull(features: Tensor, labels: Tensor, table: ClassTable) -> Tensor:
    """Return the mean over the batch of the mean squared distance of features from their class's row; 0 where unknown."""
    return ((features - table.rows[labels]).square().mean(1) * table.known[labels]).mean()


class NearestRow(nn.Module):
    """A network that says the class whose row of a table its features are nearest to."""

    rows: Tensor
    known: Tensor

    def __init__(self, model: nn.Module, classes: int, table: ClassTable) -> None:
        super().__init__()
        self.model = model
        self._extract = Extractor(model, classes)
        self.register_buffer("rows", table.rows)
        self.register_buffer("known", table.known)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs to (batch, classes): minus the squared distances, minus infinity for classes without a row."""
        features, _ = self._extract(inputs)
        distances = (features[:, None] - self.rows).square().sum(2)
        return (-distances).masked_fill(~self.known, -torch.inf)
