"""FedTGP: FedProto whose server trains the global prototypes to keep classes apart.

J. Zhang, Y. Liu, Y. Hua, J. Cao, "FedTGP: Trainable Global Prototypes with Adaptive-Margin-Enhanced Contrastive Learning for
Data and Model Heterogeneity in Federated Learning", AAAI 2024, arXiv 2401.03230. A client does as in FedProto. The server
trains vectors, through two linear layers, to be nearer to the clients' prototypes of their class than to those of others by a
margin that adapts to how far classes are apart. Up: a mean of features for each class held. Down: the trained prototypes.

Departures: prototypes are taken after training; the margin is the largest of the classes' distances from their nearest other
class, as in the authors' code; prototypes of clients that do not take part in a round stay as they were sent last; the nearest
prototype, which serves a client, is of those that it was given before it trained, where the authors' are the server's newest,
and serves once there is one of each class that the client holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pfedhr.algorithm import Metrics, ServerView, Setup
from pfedhr.algorithms.needs import above_zero, at_least
from pfedhr.algorithms.per_class import ClassMeans, ClassTable, Down, Latest, merge
from pfedhr.algorithms.private import weights_of
from pfedhr.algorithms.prototypes import Prototypical
from pfedhr.parcel import Tensors
from pfedhr.seeding import generator, seeded


@dataclass(frozen=True)
class Trainable:
    """The server's state: what every client sent last, what makes the prototypes, and the prototypes."""

    latest: Latest
    maker: Tensors
    down: Down


@dataclass(frozen=True)
class FedTGP(Prototypical):
    """Trainable global prototypes."""

    prototype_weight: float = 10.0
    """Weight of the distance from the prototypes (lambda); the distance is a mean over the features."""
    prediction: Literal["head", "prototypes"] = "prototypes"
    """What serves a client: its network's own head, or the nearest of the prototypes that it was given last, where these have
    one of each class that it holds."""
    margin_limit: float = 100.0
    """The largest margin (tau)."""
    server_epochs: int = 100
    """Passes of the server over the clients' prototypes."""
    server_batch_size: int = 10
    """Prototypes a step."""
    server_learning_rate: float = 0.01
    """Step of the server's gradient descent."""

    name = "fedtgp"
    server_state = Trainable

    def check(self, setup: Setup) -> None:
        """Raise SettingError for features of several widths, or settings out of range."""
        super().check(setup)
        at_least(self, margin_limit=0, server_epochs=0, server_batch_size=1)
        above_zero(self, "server_learning_rate")

    def init_server(self, view: ServerView) -> Trainable:
        """Return no prototypes."""
        return Trainable(Latest({}), {}, Down(None))

    def message(self, server: Trainable, client: str) -> Down:
        """Return the trained prototypes."""
        return server.down

    def server_step(self, server: Trainable, replies: Mapping[str, ClassMeans], view: ServerView) -> tuple[Trainable, Metrics]:
        """Train the prototypes on everyone's last ones."""
        latest = server.latest.after(replies)
        centres = merge(latest.sent, view.classes)
        with seeded(view.seed, "prototypes"):
            maker = PrototypeMaker(view.classes, centres.rows.shape[1])
        if server.maker:
            maker.load_state_dict(server.maker)
        means = torch.cat([one.means for one in latest.sent.values()])
        classes = torch.cat([one.classes for one in latest.sent.values()])
        margin = min(adaptive_margin(centres), self.margin_limit)
        optimiser = torch.optim.SGD(maker.parameters(), self.server_learning_rate)
        rng = generator(view.seed, view.round, "prototypes")
        for _ in range(self.server_epochs):
            for places in torch.randperm(len(means), generator=rng).split(self.server_batch_size):
                optimiser.zero_grad()
                margin_loss(means[places], classes[places], maker(), margin).backward()
                optimiser.step()
        table = ClassTable(maker().detach(), centres.known)
        return Trainable(latest, weights_of(maker), Down(table)), {"margin": margin}


class PrototypeMaker(nn.Module):
    """A vector a class, made into its prototype by two linear layers."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(classes, width))
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self) -> Tensor:
        """Return the prototypes (classes, width)."""
        return self.layers(self.vectors)


def margin_loss(means: Tensor, classes: Tensor, prototypes: Tensor, margin: float) -> Tensor:
    """Return the mean cross entropy of minus the distances to all prototypes, the own class's made longer by `margin`.

    `means` (n, width), `classes` (n,) int64, `prototypes` (classes, width).
    """
    # The root has no gradient at 0, where a prototype is met exactly.
    distances = ((means[:, None] - prototypes).square().sum(2) + 1e-12).sqrt()
    own = functional.one_hot(classes, len(prototypes))
    return functional.cross_entropy(-(distances + margin * own), classes)


def adaptive_margin(centres: ClassTable) -> float:
    """Return the largest of the known classes' distances from their nearest other one; infinity if fewer than two are known."""
    rows = centres.rows[centres.known]
    if len(rows) < 2:
        return float("inf")
    apart = torch.cdist(rows, rows).fill_diagonal_(torch.inf)
    return float(apart.amin(1).max())
