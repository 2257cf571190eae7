"""HeteroFL: clients train slices of one global network, each as wide as it can bear.

E. Diao, J. Ding, V. Tarokh, "HeteroFL: Computation and Communication Efficient Federated Learning for Heterogeneous Clients",
ICLR 2021, arXiv 2010.01264. A slice has the first outputs of every hidden layer and the inputs that match. In training a
layer's outputs are divided by the share r of the global network's that it has, batch norms use the statistics of the batch,
and logits of classes that the client lacks are set to 0. Every scalar of the global network becomes the plain mean over the
clients that sent it, and the last layer's rows over those that have the class; what nobody sent stays. Up: the slice, and the
client's classes. Down: the slice. What serves a client is its slice after its own training.

Departures: Adam without clipping, as in every method here. The paper tests the global network, where no r divides; here the
slice serves, as it was trained: its weights are divided by r for good, and logits of absent classes stay 0. Its batch norms
take their statistics from one pass over the client's own examples afterwards; the server averages them like weights, for the
teacher's place alone. The server learns how wide a client is with its first upload, so a client that takes part late is sent
the global network that once, and cuts it itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from pfedhr.algorithm import ClientView, Metrics, ServerView, SettingError, Setup
from pfedhr.algorithms.held import Held, KeepsShared
from pfedhr.algorithms.private import or_common, restore, train, weights_of
from pfedhr.algorithms.slices import (
    Shapes,
    Slice,
    divide,
    head_of,
    is_slice,
    joined,
    measure_statistics,
    rates_of,
    scaled,
    shapes_of,
    silence,
    slice_fault,
    slice_of,
)
from pfedhr.heads import Extractor, HeadError
from pfedhr.learning import steady
from pfedhr.models import ModelSpec, build
from pfedhr.parcel import Tensors
from pfedhr.seeding import generator
from pfedhr.zoo import ModelError


@dataclass(frozen=True)
class GlobalNetwork:
    """The server's state: the global network, None before the first mean, and the shapes of every client's slice by client."""

    weights: Tensors | None
    shapes: dict[str, Shapes]


@dataclass(frozen=True)
class Portion:
    """What goes down: the client's slice, or all where its width is unknown; None where clients make that themselves."""

    weights: Tensors | None


@dataclass(frozen=True)
class HeteroFL(KeepsShared):
    """Federated learning of slices of one global network."""

    global_network: str = "cnn4"
    """The network that all clients' networks are slices of: a name of the zoo, or "package.module:factory"."""

    name = "heterofl"
    uncovered = None
    server_state = GlobalNetwork
    message_type = Portion
    reply_type = Slice

    def check(self, setup: Setup) -> None:
        """Raise SettingError unless every network is a slice of the global one, and ends in a linear layer as that does."""
        for network in setup.structures:
            if network.features:
                raise SettingError(
                    f"{self.name} cuts slices of algorithm.global_network = {self.global_network!r}, which has no adapter: set "
                    f"clients.features = 0, not {network.features}, and name slices of it in clients.models"
                )
            try:
                complete = build(self._global(network), 0)
            except ModelError as error:
                raise SettingError(f"algorithm.global_network of {self.name}: {error}") from error
            part = build(network, 0)
            try:
                for model in (complete, part):
                    Extractor(model, network.classes).check(setup.examples)
            except HeadError as error:
                raise SettingError(
                    f"algorithm.global_network = {self.global_network!r} of {self.name}, and its slice {network.factory!r} in "
                    f"clients.models, need a last linear layer whose rows are classes: {error}"
                ) from error
            if not is_slice(part, complete, setup.examples):
                raise SettingError(
                    f"{self.name} needs slices of algorithm.global_network = {self.global_network!r}, and {network.factory!r} "
                    f"is none: name networks in clients.models that differ from it in their hidden widths alone, such as "
                    f"cnn4-half for cnn4, or the network that they are slices of"
                )

    def init_server(self, view: ServerView) -> GlobalNetwork:
        """Return no network yet."""
        return GlobalNetwork(None, {})

    def init_client(self, view: ClientView) -> Held:
        """Return the client's slice of the initial network."""
        return Held(self._slice(Portion(None), view), None)

    def message(self, server: GlobalNetwork, client: str) -> Portion:
        """Return the client's slice, or the global network if the client has never been heard of."""
        if server.weights is None or client not in server.shapes:
            return Portion(server.weights)
        return Portion(slice_of(server.weights, server.shapes[client]))

    def client_step(self, state: Held, message: Portion, view: ClientView) -> tuple[Held, Slice, Metrics]:
        """Train the slice on the private examples, for the classes that they have."""
        examples = view.train.ready(view.device)
        weights = self._slice(message, view)
        rates = rates_of(view.network, self._global(view.network))
        model = restore(view.network, weights).to(view.device)
        # Which classes a client has, no noise covers: with privacy it counts as having all.
        labels = examples.labels if view.privacy is None else torch.arange(view.network.classes, device=view.device)
        absent = torch.ones(view.network.classes, dtype=torch.bool, device=view.device)
        absent[labels] = False

        def loss(model: nn.Module, batch: Tensor) -> Tensor:
            logits = model(examples.inputs[batch]).masked_fill(absent, 0.0)
            return functional.cross_entropy(logits, examples.labels[batch])

        with scaled(model, rates):
            last = train(view, model, steady(loss))
        trained = weights_of(model)
        divide(model, rates)
        measure_statistics(
            model, examples.inputs, view.training.batch_size, generator(view.seed, view.round, view.id, "statistics")
        )
        statistics = {name: value.cpu().clone() for name, value in model.named_buffers() if name in trained}
        silence(model, view.network.classes, absent)
        shared = None
        if message.weights is not None:
            given = restore(view.network, weights)
            divide(given, rates)
            shared = weights_of(given)
        present = tuple(int(label) for label in labels.unique())
        return Held(weights_of(model), shared), Slice(trained | statistics, present), {"loss": last}

    def faults(self, server: GlobalNetwork, replies: Mapping[str, Slice], view: ServerView) -> dict[str, str]:
        """Return which replies are no slices of the global network."""
        network = ModelSpec(self.global_network, view.shape, view.classes)
        complete = or_common(server.weights, network, view.seed)
        found = {client: slice_fault(part, complete, head_of(network), view.classes) for client, part in replies.items()}
        return {client: fault for client, fault in found.items() if fault}

    def server_step(
        self, server: GlobalNetwork, replies: Mapping[str, Slice], view: ServerView
    ) -> tuple[GlobalNetwork, Metrics]:
        """Return the global network with the mean of the slices in the places that they have."""
        network = ModelSpec(self.global_network, view.shape, view.classes)
        old = or_common(server.weights, network, view.seed)
        sent = {client: replies[client] for client in sorted(replies)}
        new = joined(old, list(sent.values()), head_of(network))
        shapes = {client: {name: tuple(value.shape) for name, value in part.weights.items()} for client, part in sent.items()}
        return GlobalNetwork(new, server.shapes | shapes), {}

    def _global(self, network: ModelSpec) -> ModelSpec:
        return replace(network, factory=self.global_network)

    def _slice(self, message: Portion, view: ClientView) -> Tensors:
        """Return the weights that the client begins a round with."""
        return slice_of(or_common(message.weights, self._global(view.network), view.seed), shapes_of(view.network))
