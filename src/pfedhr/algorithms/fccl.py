"""FCCL: networks of any structure agree on how classes correlate on public data, and remember what they knew before.

W. Huang, M. Ye, B. Du, "Learn from Others and Be Yourself in Heterogeneous Federated Learning", CVPR 2022; extended as FCCL+,
arXiv 2309.16286. A client standardises each class's logits over a batch of public inputs, its own and the clients' mean, and
takes the correlations of all pairs of classes between the two: it moves those of a class with itself towards 1, and those of
two classes towards -1. On its private examples it then lowers CE + KL(p_before || p) + KL(p_first || p), where p_before is its
network of the round before and p_first the one that private training alone had given it. Up: logits on public inputs. Down:
their mean over the clients. Every client holds the public inputs; labels are not used.

Departures: one exchange a round, so the mean is fixed while a client moves towards it, and is of the round before; the first
private training is the client's first round rather than epochs beforehand; standard deviations divide by the batch, as the
correlations do, and have a small number added under the root; one Adam a round instead of one a batch, with the plan's weight
decay.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pfedhr.algorithm import ClientView, Metrics, PublicUse, SettingError, Setup
from pfedhr.algorithms.consensus import ByConsensus, Consensus, PublicLogits
from pfedhr.algorithms.needs import at_least
from pfedhr.algorithms.own import Own
from pfedhr.algorithms.private import Term, initial_weights, restore, train_model, weights_of
from pfedhr.inference import predict
from pfedhr.learning import distil, soft_targets, steady
from pfedhr.parcel import Tensors


@dataclass(frozen=True)
class Rooted(Own):
    """A client's state: its weights, and those after its first private training, None before it."""

    first: Tensors | None


@dataclass(frozen=True)
class FCCL(ByConsensus):
    """Federated cross-correlation and continual learning."""

    correlation_weight: float = 0.0051
    """Weight of the correlations between different classes."""
    memory_weight: float = 1.0
    """Weight of the two earlier networks in the private loss."""

    name = "fccl"
    uncovered = None
    fewest = 2  # a correlation over one example is of no use
    client_state = Rooted

    def check(self, setup: Setup) -> None:
        """Raise what ByConsensus does, SettingError for settings out of range, or too little to correlate anything on."""
        at_least(self, correlation_weight=0, memory_weight=0)
        if len(setup.public) < 2:
            raise SettingError(f"{self.name} needs at least 2 public inputs to correlate classes on: set a larger public.share")
        super().check(setup)

    def public_use(self, labelled: bool) -> PublicUse:
        """Return inputs at clients: labels are not used."""
        return "inputs at clients"

    def init_client(self, view: ClientView) -> Rooted:
        """Return the client's initial weights, before any training."""
        return Rooted(initial_weights(view), None)

    def client_step(self, state: Rooted, message: Consensus, view: ClientView) -> tuple[Rooted, PublicLogits, Metrics]:
        """Learn from others on public inputs, remember on private examples, score the round's public inputs."""
        model = restore(view.network, state.weights).to(view.device)
        if state.first is None:
            metrics = train_model(view, model)
        else:
            # What the earlier networks say of the private examples stays the same for the round, so it is computed once.
            memory = self._memory(view, [state.weights, state.first])
            collaboration = self.approach(view, model, message, self._distance, "collaboration")
            metrics = {**train_model(view, model, memory), **collaboration}
        weights = weights_of(model)
        return Rooted(weights, state.first or weights), self.public_logits(view, model), metrics

    def _distance(self, logits: Tensor, consensus: Tensor) -> Tensor:
        return correlation_loss(logits, consensus, self.correlation_weight)

    def _memory(self, view: ClientView, earlier: list[Tensors]) -> Term | None:
        """Return the divergences from earlier networks on the private examples, or None where they have no weight."""
        if not self.memory_weight:
            return None
        inputs = view.train.ready(view.device).inputs
        models = [restore(view.network, weights).to(view.device) for weights in earlier]
        before, first = (soft_targets(predict(model, inputs)) for model in models)
        return steady(lambda logits, batch: self.memory_weight * (distil(logits, before[batch]) + distil(logits, first[batch])))


def correlation_loss(logits: Tensor, target: Tensor, weight: float) -> Tensor:
    """Return how far the correlations of classes between `logits` and `target`, each (batch, classes), are from their aims.

    The sum of (1 - M_uu)^2, plus `weight` times that of (1 + M_uv)^2 over all ordered pairs of different classes.
    """
    correlations = standardise(logits).T @ standardise(target.detach()) / len(logits)
    own = correlations.diagonal()
    return (1 - own).square().sum() + weight * ((1 + correlations).square().sum() - (1 + own).square().sum())


def standardise(columns: Tensor) -> Tensor:
    """Return the columns of (n, c) with mean 0 and standard deviation 1 over n, or all 0 where they do not vary."""
    centred = columns - columns.mean(0)
    return centred / (centred.square().mean(0) + 1e-5).sqrt()
