"""FedGH: networks of any extractor share one header, which the server trains on their mean features.

L. Yi, G. Wang, X. Liu, Z. Shi, H. Yu, "FedGH: Heterogeneous Federated Learning with Generalized Global Header", ACM MM 2023,
arXiv 2303.13137. Up: a mean of features for each class that the client holds. Down: the header, which takes the place of the
client's own before its training. No public data is used.

Departures: means are of one pass in eval mode; what is scored is the client's network after its own training, as in the
authors' reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pfedhr.algorithm import ClientView, Metrics, ServerView, Setup
from pfedhr.algorithms.admission import unclassed
from pfedhr.algorithms.held import Shared
from pfedhr.algorithms.needs import above_zero, at_least
from pfedhr.algorithms.own import Own
from pfedhr.algorithms.per_class import ClassMeans, private_means
from pfedhr.algorithms.private import train_privately, weights_of
from pfedhr.algorithms.shared_head import SharedHead, with_head
from pfedhr.parcel import Tensors
from pfedhr.seeding import generator, seeded


@dataclass(frozen=True)
class FedGH(SharedHead):
    """A generalised global header."""

    header_epochs: int = 1
    """Passes of the server over the means, one step each."""
    header_learning_rate: float = 0.01
    """Step of the server's gradient descent."""

    name = "fedgh"
    uncovered = "clients send the mean features of their private examples, which no noise covers"
    reply_type = ClassMeans

    def check(self, setup: Setup) -> None:
        """Raise SettingError for features of several widths, or settings out of range."""
        super().check(setup)
        at_least(self, header_epochs=0)
        above_zero(self, "header_learning_rate")

    def client_step(self, state: Own, message: Shared, view: ClientView) -> tuple[Own, ClassMeans, Metrics]:
        """Train with the header that came, then take the class means of the features."""
        weights, metrics = train_privately(view, with_head(view.network, state, message))
        return Own(weights), private_means(view, weights), metrics

    def faults(self, server: Shared, replies: Mapping[str, ClassMeans], view: ServerView) -> dict[str, str]:
        """Return which replies are no class means of features that the header takes."""
        return unclassed(replies, view.classes, server.weights["weight"].shape[1] if server.weights else None)

    def server_step(self, server: Shared, replies: Mapping[str, ClassMeans], view: ServerView) -> tuple[Shared, Metrics]:
        """Train the header on the means."""
        sent = [replies[client] for client in sorted(replies)]
        means, classes = torch.cat([one.means for one in sent]), torch.cat([one.classes for one in sent])
        with seeded(view.seed, "header"):
            header = nn.Linear(means.shape[1], view.classes)
        if server.weights:
            header.load_state_dict(server.weights)
        rng = generator(view.seed, view.round, "header")
        return Shared(train_header(header, means, classes, self.header_epochs, self.header_learning_rate, rng)), {}


def train_header(
    header: nn.Linear, means: Tensor, classes: Tensor, epochs: int, learning_rate: float, rng: torch.Generator
) -> Tensors:
    """Return the header's weights after a gradient step on each mean (n, width) and class (n,), in random order, an epoch."""
    optimiser = torch.optim.SGD(header.parameters(), learning_rate)
    for _ in range(epochs):
        for place in torch.randperm(len(means), generator=rng).split(1):
            optimiser.zero_grad()
            functional.cross_entropy(header(means[place]), classes[place]).backward()
            optimiser.step()
    return weights_of(header)
