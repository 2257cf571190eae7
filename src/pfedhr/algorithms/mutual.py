"""What methods share whose clients train a small common network beside their own, each network learning from the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pfedhr.algorithm import Algorithm, ClientView, Metrics, ServerView, SettingError, Setup
from pfedhr.algorithms.homogeneous import Held, Shared
from pfedhr.algorithms.private import common_weights, initial_weights, restore, train, weights_of
from pfedhr.models import ModelSpec, build, check_network
from pfedhr.parcel import Tensors
from pfedhr.seeding import seeded
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
        place = f"algorithm.common_network = {self.common_network!r} of {self.name}"
        try:
            check_network(network, torch.cat([example, example]))
        except ModelError as error:
            raise SettingError(f"{place}: {error}") from error
        try:
            # How many examples clients hold is not known here, so a last batch of one has to be possible.
            with seeded(0, "check"):
                build(network, 0).train()(example)
        except Exception as error:
            raise SettingError(
                f"{place} cannot be trained on a batch of one, as a client's last batch may be: {error}. Choose a network "
                f"without batch norm on single values"
            ) from error

    def common(self, shape: tuple[int, ...], classes: int) -> ModelSpec:
        """Return what the common network is made of, for inputs of `shape`."""
        return ModelSpec(self.common_network, shape, classes)


@dataclass(frozen=True)
class Mutual(CommonNetwork):
    """A method whose common network travels as it is. It adds its losses, and what the server makes of the common networks.

    What serves a client is its own network; the common one that it was given stands in the teacher's place, to be scored
    beside it.
    """

    server_state = Shared
    client_state = Held
    message_type = Shared

    def init_server(self, view: ServerView) -> Shared:
        """Return no common network: clients make its initial weights themselves."""
        return Shared(None)

    def init_client(self, view: ClientView) -> Held:
        """Return the client's own initial weights, and no common ones."""
        return Held(initial_weights(view), None)

    def message(self, server: Shared, client: str) -> Shared:
        """Return the common network."""
        return server

    def personal_model(self, state: Held, view: ClientView) -> nn.Module:
        """Return the client's own network."""
        return restore(view.network, state.weights)

    def teacher_model(self, state: Held, view: ClientView) -> nn.Module | None:
        """Return the common network that the client was given last."""
        return restore(self.common(view.network.shape, view.network.classes), state.shared) if state.shared else None

    def learn_together(self, state: Held, message: Shared, view: ClientView, loss: PairLoss) -> tuple[Held, Tensors, Metrics]:
        """Train the client's own network and the common one on the same batches; return its state and the common weights.

        Adam keeps its moments a weight, so one training of both is two of one each where `loss` detaches the partner's logits.
        """
        network = self.common(view.network.shape, view.network.classes)
        received = common_weights(network, view.seed) if message.weights is None else message.weights
        own = restore(view.network, state.weights).to(view.device)
        common = restore(network, received).to(view.device)
        examples = view.train.ready(view.device)

        def both(_: nn.Module, batch: Tensor) -> Tensor:
            inputs = examples.inputs[batch]
            return loss(own(inputs), common(inputs), examples.labels[batch])

        last = train(view, nn.ModuleList([own, common]), both)
        return Held(weights_of(own), message.weights), weights_of(common), {"loss": last}
