"""One vector a class: what methods exchange that send means of features or of outputs instead of networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pfedhr.algorithm import ClientView
from pfedhr.algorithms.private import restore
from pfedhr.heads import Extractor
from pfedhr.inference import LARGEST_BATCH, inference
from pfedhr.parcel import Tensors


@dataclass(frozen=True)
class ClassMeans:
    """What a client sends up: the means (k, width) of the k classes that it holds, and their numbers (k,).

    `counts` (k,): how many examples of each it has, which only a method that weighs by them is told.
    """

    means: Tensor
    classes: Tensor
    counts: Tensor | None = None


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


def class_means(values: Tensor, labels: Tensor, counted: bool = False) -> ClassMeans:
    """Return the mean of `values` (n, width) over each class of `labels` (n,), on the CPU, with the counts if asked for."""
    classes, place, counts = labels.cpu().unique(return_inverse=True, return_counts=True)
    sums = values.new_zeros(len(classes), values.shape[1], device="cpu").index_add_(0, place, values.detach().cpu())
    return ClassMeans(sums / counts[:, None], classes, counts if counted else None)


def merge(sent: Mapping[str, ClassMeans], classes: int) -> ClassTable:
    """Return the mean of every class over the clients, at least one, that hold it: by its counts where they were sent."""
    width = next(iter(sent.values())).means.shape[1]
    sums, weights = torch.zeros(classes, width), torch.zeros(classes)
    for client in sorted(sent):
        one = sent[client]
        share = torch.ones(len(one.classes)) if one.counts is None else one.counts.float()
        sums.index_add_(0, one.classes, one.means * share[:, None])
        weights.index_add_(0, one.classes, share)
    return ClassTable(sums / weights.clamp(min=1)[:, None], weights > 0)


def private_means(view: ClientView, weights: Tensors, counted: bool = False) -> ClassMeans:
    """Return the class means of the private examples' features, in eval mode."""
    examples = view.train.ready(view.device)
    extractor = Extractor(restore(view.network, weights).to(view.device), view.network.classes)
    with inference(extractor.model):
        features = torch.cat([extractor(batch.clone())[0] for batch in examples.inputs.split(LARGEST_BATCH)])
    return class_means(features, examples.labels, counted)


def on(table: ClassTable, device: torch.device) -> ClassTable:
    """Return the table on `device`."""
    return ClassTable(table.rows.to(device), table.known.to(device))
