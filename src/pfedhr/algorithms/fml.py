"""FML: a common network is trained beside every client's own, and averaged.

T. Shen et al., "Federated Mutual Learning", 2020, arXiv 2006.16765. A client lowers alpha CE(own) + (1 - alpha) KL(p_common ||
p_own) in its own network, and beta CE(common) + (1 - beta) KL(p_own || p_common) in its copy of the common one, at once. Up:
the weights of the common network. Down: their plain mean. No public data is used.

Departures: each network's predictions teach the other as constants; Adam, as in every method here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from pfedhr.algorithm import ClientView, Metrics, ServerView, Setup
from pfedhr.algorithms.averaging import plain_mean
from pfedhr.algorithms.held import Held, Shared
from pfedhr.algorithms.mutual import CommonWeights, Mutual
from pfedhr.algorithms.needs import shares
from pfedhr.learning import distil, soft_targets


@dataclass(frozen=True)
class FML(Mutual):
    """Federated mutual learning."""

    own_label_share: float = 0.5
    """How much of its loss the client's own network takes from labels (alpha); the rest is from the common network."""
    common_label_share: float = 0.5
    """How much of its loss the common network takes from labels (beta); the rest is from the client's own network."""

    name = "fml"
    uncovered = None

    def check(self, setup: Setup) -> None:
        """Raise SettingError for a share outside 0 to 1, or a common network that cannot be trained."""
        shares(self, "own_label_share", "common_label_share")
        super().check(setup)

    def client_step(self, state: Held, message: Shared, view: ClientView) -> tuple[Held, CommonWeights, Metrics]:
        """Train the client's own network and the common one, each on labels and on what the other says."""
        alpha, beta = self.own_label_share, self.common_label_share

        def loss(own: Tensor, common: Tensor, labels: Tensor) -> Tensor:
            own_loss = alpha * functional.cross_entropy(own, labels) + (1 - alpha) * distil(own, soft_targets(common))
            common_loss = beta * functional.cross_entropy(common, labels) + (1 - beta) * distil(common, soft_targets(own))
            return own_loss + common_loss

        held, common, metrics = self.learn_together(state, message, view, loss)
        return held, CommonWeights(common), metrics

    def server_step(self, server: Shared, replies: Mapping[str, CommonWeights], view: ServerView) -> tuple[Shared, Metrics]:
        """Return the plain mean of the common networks."""
        return Shared(plain_mean([replies[client].weights for client in sorted(replies)])), {}
