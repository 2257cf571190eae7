"""FCCL: networks of any structure agree on how classes correlate on public data, and remember what they knew before.

W. Huang, M. Ye, B. Du, "Learn from Others and Be Yourself in Heterogeneous Federated Learning", CVPR 2022; extended as FCCL+,
arXiv 2309.16286. A client standardises each class's logits over a batch of public inputs, its own and the clients' mean, and
takes the correlations of all pairs of classes between the two: it moves those of a class with itself towards 1, and those of
two classes towards -1. On its private examples it then lowers CE + KL(p_before || p) + KL(p_first || p), where p_before is its
network of the round before and p_first the one that private training alone had given it. Up: logits on public inputs. Down:
their mean over the clients. Every client holds the public inputs; labels are not used.

Departures: one exchange a round, so the mean is fixed while a client moves towards it, and is of the round before; the first
private training is the client's first round rather than epochs beforehand; standard deviations divide by the batch, as the
correlations do, and have a small number added under the root; one Adam a round instead of one a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from pfedhr.algorithm import ClientView, Metrics, PublicUse, SettingError, Setup
from pfedhr.algorithms.consensus import ByConsensus, Consensus, PublicScores, public_inputs
from pfedhr.algorithms.needs import at_least, public_batches
from pfedhr.algorithms.own import Own
from pfedhr.algorithms.private import Term, initial_weights, restore, train, train_model, weights_of
from pfedhr.inference import predict
from pfedhr.learning import distil, soft_targets
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
    public_examples: int = 5000
    """How many public inputs the clients score in a round, at most."""
    collaboration_epochs: int = 1
    """Epochs of moving towards the mean on public inputs."""
    collaboration_batch_size: int = 256
    """Batch size of it, over which classes are correlated."""

    name = "fccl"
    client_state = Rooted

    def check(self, setup: Setup) -> None:
        """Raise what would stop the method on `setup`.

        SettingError for settings out of range, or public data too small to correlate anything on; ModelError for a network
        that cannot be trained on the public data in these batches.
        """
        at_least(self, correlation_weight=0, memory_weight=0, collaboration_epochs=0)
        at_least(self, public_examples=2, collaboration_batch_size=2)
        if len(setup.public) < 2:
            raise SettingError(f"{self.name} needs at least 2 public inputs to correlate classes on: set a larger public.share")
        if self.collaboration_epochs:
            public_batches(setup, "algorithm.collaboration_batch_size", self.collaboration_batch_size, self.public_examples)

    def public_use(self, labelled: bool) -> PublicUse:
        """Return inputs at clients: labels are not used."""
        return "inputs at clients"

    def init_client(self, view: ClientView) -> Rooted:
        """Return the client's initial weights, before any training."""
        return Rooted(initial_weights(view), None)

    def client_step(self, state: Rooted, message: Consensus, view: ClientView) -> tuple[Rooted, PublicScores, Metrics]:
        """Learn from others on public inputs, remember on private examples, score the round's public inputs."""
        model = restore(view.network, state.weights).to(view.device)
        if state.first is None:
            metrics = train_model(view, model)
        else:
            # What the earlier networks say of the private examples stays the same for the round, so it is computed once.
            memory = self._memory(view, [state.weights, state.first])
            collaboration = self._collaborate(view, model, message)
            metrics = {**train_model(view, model, memory), **collaboration}
        weights = weights_of(model)
        logits = predict(model, public_inputs(view, view.round, self.public_examples)).cpu()
        return Rooted(weights, state.first or weights), PublicScores(logits), metrics

    def _collaborate(self, view: ClientView, model: nn.Module, message: Consensus) -> Metrics:
        """Train `model` in place towards the consensus, if there is one, and return the last loss."""
        if message.scores is None or not self.collaboration_epochs:
            return {}
        inputs = public_inputs(view, message.round, self.public_examples)
        scores = message.scores.to(view.device)

        def loss(model: nn.Module, batch: Tensor) -> Tensor:
            return correlation_loss(model(inputs[batch]), scores[batch], self.correlation_weight)

        training = replace(view.training, epochs=self.collaboration_epochs, batch_size=self.collaboration_batch_size)
        return {"collaboration_loss": train(view, model, loss, "collaboration", training, len(inputs))}

    def _memory(self, view: ClientView, earlier: list[Tensors]) -> Term | None:
        """Return the divergences from earlier networks on the private examples, or None where they have no weight."""
        if not self.memory_weight:
            return None
        inputs = view.train.ready(view.device).inputs
        models = [restore(view.network, weights).to(view.device) for weights in earlier]
        before, first = (soft_targets(predict(model, inputs)) for model in models)
        return lambda logits, batch: self.memory_weight * (distil(logits, before[batch]) + distil(logits, first[batch]))


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
