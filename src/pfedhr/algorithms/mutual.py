"""What methods share whose clients train a small common network beside their own, each network learning from the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pfedhr.algorithm import Algorithm, ClientView, Metrics, ServerView, SettingError, Setup
from pfedhr.algorithms.admission import unlike
from pfedhr.algorithms.held import Held, KeepsShared, SendsShared, Shared
from pfedhr.algorithms.private import initial_weights, or_common, restore, train, weights_of
from pfedhr.learning import steady
from pfedhr.models import ModelSpec, check_last_batch, check_network
from pfedhr.parcel import Tensors
from pfedhr.zoo import ModelError

PairLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps the logits of a client's own network, those of the common one, each (batch, classes), and the labels to a scalar."""


@dataclass(frozen=True)
class CommonNetwork(Algorithm):
    """A method with a common network, whose initial weights everyone makes by itself."""

    common_network: str = "cnn1"
    """The network that clients share: a name of the zoo or package.module:factory; a small one costs least."""

    def check(self, setup: Setup) -> None:
        """Raise SettingError if the common network cannot be trained on the clients' inputs, in batches of any size."""
        one, example = next(iter(setup.networks.values())), setup.examples[:1]
        network = self.common(one.shape, one.classes)
        try:
            check_network(network, torch.cat([example, example]))
            # How many examples clients hold is not known here, so a last batch of one has to be possible.
            check_last_batch(network, example, 1, 1, "a client with one example")
        except ModelError as error:
            place = f"algorithm.common_network = {self.common_network!r} of {self.name}"
            raise SettingError(f"{place}: {error}") from error

    def trained(self, network: ModelSpec) -> tuple[ModelSpec, ...]:
        """Return the client's own network and the common one."""
        return network, self.common(network.shape, network.classes)

    def common(self, shape: tuple[int, ...], classes: int) -> ModelSpec:
        """Return what the common network is made of, for inputs of `shape`."""
        return ModelSpec(self.common_network, shape, classes)


@dataclass(frozen=True)
class CommonWeights:
    """What goes up: the weights of the client's copy of the common network."""

    weights: Tensors


@dataclass(frozen=True)
class Mutual(CommonNetwork, SendsShared, KeepsShared):
    """A method whose common network travels as it is. It adds its losses, and what the server makes of the common networks."""

    reply_type = CommonWeights

    def init_client(self, view: ClientView) -> Held:
        """Return the client's own initial weights, and no common ones."""
        return Held(initial_weights(view), None)

    def shared_network(self, view: ClientView) -> ModelSpec:
        """Return what the common network is made of."""
        return self.common(view.network.shape, view.network.classes)

    def faults(self, server: Shared, replies: Mapping[str, CommonWeights], view: ServerView) -> dict[str, str]:
        """Return which replies are of another network than the common one."""
        network = self.common(view.shape, view.classes)
        common = or_common(server.weights, network, view.seed)
        return unlike({client: one.weights for client, one in replies.items()}, common)

    def learn_together(self, state: Held, message: Shared, view: ClientView, loss: PairLoss) -> tuple[Held, Tensors, Metrics]:
        """Train the client's own network and the common one on the same batches; return its state and the common weights.

        Adam keeps its moments a weight, so one training of both is two of one each where `loss` detaches the partner's logits.
        """
        network = self.shared_network(view)
        own = restore(view.network, state.weights).to(view.device)
        common = restore(network, or_common(message.weights, network, view.seed)).to(view.device)
        examples = view.train.ready(view.device)

        def both(_: nn.Module, batch: Tensor) -> Tensor:
            inputs = examples.inputs[batch]
            # The first gets a copy: it may change in place what it takes.
            return loss(own(inputs.clone()), common(inputs), examples.labels[batch])

        last = train(view, nn.ModuleList([own, common]), steady(both))
        return Held(weights_of(own), message.weights), weights_of(common), {"loss": last}
