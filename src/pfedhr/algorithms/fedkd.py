"""FedKD: a small mentee travels between mentors of any structure, and only its compressed changes do.

C. Wu, F. Wu, L. Lyu, Y. Huang, X. Xie, "Communication-efficient federated learning via knowledge distillation", Nature
Communications 13:2032, 2022, arXiv 2108.13323. A client trains its mentor and the mentee beside each other, each by its cross
entropy, plus the divergence from the other's predictions and the mean squared distance of the mentor's features from W h, both
divided by the sum of the two cross entropies: nobody learns much from networks that are mostly wrong. h are the mentee's
features, and W stays with the client. Up: the mentee's change, each matrix as the shortest sum of its singular parts that
keeps a share of its energy, and the number of examples. Down: the mean change, compressed likewise. No public data is used.

Departures: each network's predictions teach the other as constants, and the divisor is one too and never below 0.001, since
distances of features do not vanish with it; W maps to the mentor's width, so that widths may differ; neither hidden states nor
attention maps of inner layers are compared; the classifier is not compressed; the share of energy rises with the rounds up to a
given one. A client that was away gets the changes that it missed, or the whole mentee where that is smaller. Adam throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from pfedhr.algorithm import ClientView, Metrics, ServerView, SettingError, Setup
from pfedhr.algorithms.admission import miscounted
from pfedhr.algorithms.averaging import differences, weighted_mean
from pfedhr.algorithms.compression import Change, apply, change_fault, change_size, compress, expand
from pfedhr.algorithms.mutual import CommonNetwork
from pfedhr.algorithms.needs import above_zero, at_least, shares
from pfedhr.algorithms.private import common_weights, initial_weights, or_common, restore, train, weights_of
from pfedhr.heads import Extractor, HeadError, head_name
from pfedhr.learning import distil, soft_targets, steady
from pfedhr.models import ModelSpec, build
from pfedhr.parcel import ParcelError, Tensors
from pfedhr.seeding import seeded


@dataclass(frozen=True)
class Mentee:
    """The server's state: the mentee, how many changes made it, the latest of these, and how many each client surely has."""

    weights: Tensors
    changes: int
    latest: tuple[Change, ...]
    known: dict[str, int]


@dataclass(frozen=True)
class News:
    """What goes down: the whole mentee after `since` changes, or None; and the changes that come after those `since`."""

    weights: Tensors | None
    since: int
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Mentor:
    """A client's state: its weights, what maps the mentee's features to its own, the mentee it received, after `changes`."""

    weights: Tensors
    projection: Tensor
    mentee: Tensors | None
    changes: int


@dataclass(frozen=True)
class Learnt:
    """What goes up: how the mentee changed, and on how many examples."""

    change: Change
    examples: int


@dataclass(frozen=True)
class FedKD(CommonNetwork):
    """Federated knowledge distillation with compressed changes."""

    energy_start: float = 0.95
    """Share of a matrix's sum of squares that its compressed form keeps in the beginning."""
    energy_end: float = 0.98
    """The same share in the end."""
    energy_rounds: int = 100
    """The round in which the share reaches its end."""

    name = "fedkd"
    uncovered = "it divides by the losses of a whole batch, so its loss is not one of single examples"
    server_state = Mentee
    client_state = Mentor
    message_type = News
    reply_type = Learnt

    def check(self, setup: Setup) -> None:
        """Raise SettingError for a setting out of range, or a network that cannot be trained or has no features."""
        above_zero(self, "energy_start", "energy_end")
        shares(self, "energy_start", "energy_end")
        at_least(self, energy_rounds=1)
        super().check(setup)
        one = next(iter(setup.networks.values()))
        places = dict.fromkeys(setup.structures, "clients.models")
        places[self.common(one.shape, one.classes)] = "algorithm.common_network"
        for network, place in places.items():
            try:
                Extractor(build(network, 0), network.classes).check(setup.examples)
            except HeadError as error:
                raise SettingError(
                    f"{place}: {self.name} needs the features of {network.factory!r} before a last linear layer, and {error}"
                ) from error

    def init_server(self, view: ServerView) -> Mentee:
        """Return the mentee that everyone begins with."""
        return Mentee(common_weights(self._network(view), view.seed), 0, (), {})

    def init_client(self, view: ClientView) -> Mentor:
        """Return the client's own initial weights, and a map of features that is its own too."""
        widths = [Extractor(build(one, 0), one.classes).head.in_features for one in (self._mentee(view), view.network)]
        with seeded(view.seed, "initial weights", view.id, "projection"):
            projection = nn.Linear(widths[0], widths[1], bias=False)
        return Mentor(initial_weights(view), projection.weight.detach(), None, 0)

    def message(self, server: Mentee, client: str) -> News:
        """Return the changes that the client lacks, or the whole mentee where they are no longer kept."""
        known = server.known.get(client, 0)
        first = known - (server.changes - len(server.latest))
        return News(None, known, server.latest[first:]) if first >= 0 else News(server.weights, server.changes, ())

    def client_step(self, state: Mentor, message: News, view: ClientView) -> tuple[Mentor, Learnt, Metrics]:
        """Bring the mentee up to date, train it and the mentor beside each other, and compress how it changed."""
        received = self._received(state, message, view)
        network, examples = self._mentee(view), view.train.ready(view.device)
        mentor = Extractor(restore(view.network, state.weights).to(view.device), view.network.classes)
        mentee = Extractor(restore(network, received).to(view.device), network.classes)
        projection = nn.Linear(*reversed(state.projection.shape), bias=False).to(view.device)
        projection.load_state_dict({"weight": state.projection})

        def loss(_: nn.Module, batch: Tensor) -> Tensor:
            inputs = examples.inputs[batch]
            # The first gets a copy: it may change in place what it takes.
            (own_features, own), (features, common) = mentor(inputs.clone()), mentee(inputs)
            # One distance serves both losses: each network has its own share of the gradient.
            return adaptive_loss(own, common, examples.labels[batch], functional.mse_loss(projection(features), own_features))

        last = train(view, nn.ModuleList([mentor.model, mentee.model, projection]), steady(loss))
        added = differences(received, weights_of(mentee.model))
        change = compress(added, self.energy(view.round), self._spared(network))
        share = change_size(change) / sum(value.numel() for value in added.values())
        after = Mentor(
            weights_of(mentor.model), projection.weight.detach().cpu(), received, message.since + len(message.changes)
        )
        return after, Learnt(change, len(view.train)), {"loss": last, "change_size_share": share}

    def faults(self, server: Mentee, replies: Mapping[str, Learnt], view: ServerView) -> dict[str, str]:
        """Return which replies are no changes of the mentee, or of no examples."""
        found = {client: change_fault(one.change, server.weights) for client, one in replies.items()}
        return miscounted(replies) | {client: fault for client, fault in found.items() if fault}

    def server_step(self, server: Mentee, replies: Mapping[str, Learnt], view: ServerView) -> tuple[Mentee, Metrics]:
        """Return the mentee after the mean change, compressed: what clients can make of it is what it becomes here."""
        sent = [replies[client] for client in sorted(replies)]
        mean = weighted_mean([expand(one.change, server.weights) for one in sent], [one.examples for one in sent])
        change = compress(mean, self.energy(view.round), self._spared(self._network(view)))
        latest = (*server.latest, change)
        whole = sum(value.numel() for value in server.weights.values())
        while sum(map(change_size, latest)) > whole:
            latest = latest[1:]
        known = server.known | dict.fromkeys(replies, server.changes)
        return Mentee(apply(change, server.weights), server.changes + 1, latest, known), {"energy": self.energy(view.round)}

    def personal_model(self, state: Mentor, view: ClientView) -> nn.Module:
        """Return the mentor."""
        return restore(view.network, state.weights)

    def teacher_model(self, state: Mentor, view: ClientView) -> nn.Module | None:
        """Return the mentee that the client was given last, once others have had a part in it."""
        return restore(self._mentee(view), state.mentee) if state.mentee and state.changes else None

    def energy(self, round: int) -> float:
        """Return the share of energy that compressed changes of `round` keep."""
        return self.energy_start + (self.energy_end - self.energy_start) * min(1.0, round / self.energy_rounds)

    def _mentee(self, view: ClientView) -> ModelSpec:
        return self.common(view.network.shape, view.network.classes)

    def _network(self, view: ServerView) -> ModelSpec:
        return self.common(view.shape, view.classes)

    def _received(self, state: Mentor, message: News, view: ClientView) -> Tensors:
        """Return the mentee as it is after the message. Raises ParcelError if the client lacks earlier changes."""
        if message.weights is not None:
            return message.weights
        if state.changes < message.since:
            raise ParcelError(
                f"client {view.id} has {state.changes} changes of the mentee, and the server takes it to have {message.since}: "
                f"its state is of an earlier round"
            )
        mentee = or_common(state.mentee, self._mentee(view), view.seed)
        for change in message.changes[state.changes - message.since :]:
            mentee = apply(change, mentee)
        return mentee

    def _spared(self, network: ModelSpec) -> set[str]:
        """Return the name of the classifier's matrix, whose rank is low as it is."""
        return {f"{head_name(build(network, 0), network.classes)}.weight"}


def adaptive_loss(own: Tensor, common: Tensor, labels: Tensor, distance: Tensor) -> Tensor:
    """Return the losses of both networks, of logits (batch, classes) each, whose features are at `distance`."""
    labelled = functional.cross_entropy(own, labels) + functional.cross_entropy(common, labels)
    taught = distil(own, soft_targets(common)) + distil(common, soft_targets(own))
    return labelled + (taught + distance) / labelled.detach().clamp(min=0.001)
