"""One vector a class: what methods exchange that send means of features or of outputs instead of networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pfedhr.algorithm import ClientView, Metrics
from pfedhr.algorithms.private import restore, train, weights_of
from pfedhr.heads import Extractor
from pfedhr.inference import inference
from pfedhr.parcel import Tensors

FeatureTerm = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps features (batch, width), logits (batch, classes) and labels (batch,) to what is added to the cross entropy."""


@dataclass(frozen=True)
class ClassMeans:
    """What a client sends up: the means (k, width) of the k classes that it holds, their numbers (k,), and counts (k,)."""

    means: Tensor
    classes: Tensor
    counts: Tensor


@dataclass(frozen=True)
class ClassTable:
    """One row a class: `rows` (classes, width), of which those count that are `known` (classes,) bool."""

    rows: Tensor
    known: Tensor


@dataclass(frozen=True)
class Down:
    """What goes down: a table, once there is one."""

    table: ClassTable | None


@dataclass(frozen=True)
class Latest:
    """The server's state: what every client sent last."""

    sent: dict[str, ClassMeans]

    def after(self, replies: Mapping[str, ClassMeans]) -> Latest:
        """Return the state with these replies in the places of older ones."""
        return Latest(dict(sorted({**self.sent, **replies}.items())))


@dataclass(frozen=True)
class Guided:
    """A client's state: its weights, and the table that it was given last."""

    weights: Tensors
    table: ClassTable | None


def class_means(values: Tensor, labels: Tensor) -> ClassMeans:
    """Return the mean of `values` (n, width) over each class of `labels` (n,), on the CPU."""
    classes, place, counts = labels.cpu().unique(return_inverse=True, return_counts=True)
    sums = values.new_zeros(len(classes), values.shape[1], device="cpu").index_add_(0, place, values.detach().cpu())
    return ClassMeans(sums / counts[:, None], classes, counts)


def merge(sent: Mapping[str, ClassMeans], classes: int, by_examples: bool) -> ClassTable | None:
    """Return the mean of every class over the clients that hold it, by their examples of it or plainly; None of nothing."""
    if not sent:
        return None
    width = next(iter(sent.values())).means.shape[1]
    sums, weights = torch.zeros(classes, width), torch.zeros(classes)
    for client in sorted(sent):
        one = sent[client]
        share = one.counts.float() if by_examples else torch.ones(len(one.classes))
        sums.index_add_(0, one.classes, one.means * share[:, None])
        weights.index_add_(0, one.classes, share)
    return ClassTable(sums / weights.clamp(min=1)[:, None], weights > 0)


def train_with_features(view: ClientView, weights: Tensors, term: FeatureTerm | None) -> tuple[Tensors, Metrics]:
    """Return the weights after training on the private examples by cross entropy, plus `term` if given, and the last loss."""
    examples = view.train.ready(view.device)
    extractor = Extractor(restore(view.network, weights).to(view.device), view.network.classes)

    def loss(_: nn.Module, batch: Tensor) -> Tensor:
        features, logits = extractor(examples.inputs[batch])
        labels = examples.labels[batch]
        value = functional.cross_entropy(logits, labels)
        return value if term is None else value + term(features, logits, labels)

    last = train(view, extractor.model, loss)
    return weights_of(extractor.model), {"loss": last}


def private_means(view: ClientView, weights: Tensors) -> ClassMeans:
    """Return the class means of the private examples' features, in eval mode."""
    examples = view.train.ready(view.device)
    extractor = Extractor(restore(view.network, weights).to(view.device), view.network.classes)
    with inference(extractor.model):
        features = torch.cat([extractor(batch)[0] for batch in examples.inputs.split(64)])
    return class_means(features, examples.labels)


def pull(features: Tensor, labels: Tensor, table: ClassTable) -> Tensor:
    """Return the mean over the batch of the mean squared distance of features from their class's row; 0 where unknown."""
    return ((features - table.rows[labels]).square().mean(1) * table.known[labels]).mean()


def on(table: ClassTable, device: torch.device) -> ClassTable:
    """Return the table on `device`."""
    return ClassTable(table.rows.to(device), table.known.to(device))


class NearestRow(nn.Module):
    """A network that says the class whose row of a table its features are nearest to."""

    rows: Tensor
    known: Tensor

    def __init__(self, model: nn.Module, classes: int, table: ClassTable) -> None:
        super().__init__()
        self.model = model
        self._classes = classes
        self.register_buffer("rows", table.rows)
        self.register_buffer("known", table.known)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs to (batch, classes): minus the squared distances, minus infinity for classes without a row."""
        features, _ = Extractor(self.model, self._classes)(inputs)
        distances = (features[:, None] - self.rows).square().sum(2)
        return (-distances).masked_fill(~self.known, -torch.inf)


def nearest_or_head(state: Guided, view: ClientView) -> nn.Module:
    """Return the network that decides by its nearest row, or by its own head before there is a table."""
    model = restore(view.network, state.weights)
    return model if state.table is None else NearestRow(model, view.network.classes, state.table)
