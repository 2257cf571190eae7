"""FedProx: FedAvg whose clients are held near the model that they were given.

T. Li, A. K. Sahu, M. Zaheer, M. Sanjabi, A. Talwalkar, V. Smith, "Federated Optimization in Heterogeneous Networks", MLSys
2020, arXiv 1812.06127, eq. (2): CE(w) + mu/2 ||w - w_shared||^2. Up: weights and the number of examples. Down: the mean.

Departures: Adam, as in every method here; no client sends the result of fewer epochs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pfedhr.algorithm import ClientView, Metrics, Setup
from pfedhr.algorithms.held import Held, Shared
from pfedhr.algorithms.homogeneous import Homogeneous, Trained, received
from pfedhr.algorithms.needs import at_least
from pfedhr.algorithms.private import restore, train_model, weights_of
from pfedhr.learning import steady


@dataclass(frozen=True)
class FedProx(Homogeneous):
    """Federated averaging with a proximal term."""

    proximal_weight: float = 0.01
    """Weight of the proximal term (mu)."""

    name = "fedprox"
    uncovered = None

    def check(self, setup: Setup) -> None:
        """Raise SettingError for several structures, or a negative weight."""
        super().check(setup)
        at_least(self, proximal_weight=0)

    def client_step(self, state: Held, message: Shared, view: ClientView) -> tuple[Held, Trained, Metrics]:
        """Train the shared model on the private examples, held near where it begins."""
        model = restore(view.network, received(message, view)).to(view.device)
        start = [value.detach().clone() for value in model.parameters()]

        def penalty() -> Tensor:
            return proximal(list(model.parameters()), start, self.proximal_weight)

        metrics = train_model(view, model, penalty=steady(penalty) if self.proximal_weight else None)
        weights = weights_of(model)
        return Held(weights, message.weights), Trained(weights, len(view.train)), metrics


def proximal(weights: list[nn.Parameter], start: list[Tensor], factor: float) -> Tensor:
    """Return factor / 2 times the squared distance of `weights` from `start`."""
    return factor / 2 * torch.stack([(value - held).square().sum() for value, held in zip(weights, start, strict=True)]).sum()
