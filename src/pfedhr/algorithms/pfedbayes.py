"""pFedBayes: every client learns a distribution of networks, held near one that all clients share.

X. Zhang, Y. Li, W. Li, K. Guo, Y. Shao, "Personalized Federated Learning via Variational Bayesian Inference", ICML 2022, arXiv
2206.07977. A weight is normally distributed with a mean and a deviation ln(1 + e^rho). The client's distribution q minimises
the expected negative log-likelihood plus zeta KL(q || w), where w is the shared one; the client's copy of w minimises the same
KL. Up: the copy of w, means and rhos. Down: w, which the server moves by a share towards the plain mean of the copies. What
serves a client is the network of the means of q, which stays with it from round to round.

Departures: the loss is divided by the number of the client's examples, so that it has the scale of every method's here; q and
the copy of w take their steps of Adam together, from one value of the KL; no weight decay, whose part the KL plays, and which
would move rhos to 0; layers that own vectors alone, such as norms, are not distributed: they are averaged like buffers; the
defaults of zeta and rho are below the paper's 10 and -2.5 for MNIST, which leave convolutional networks with few examples near
chance; the server's share counts from the second round on, for it is told no networks and has no w before the first replies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from pfedhr.algorithm import Algorithm, ClientView, Metrics, ServerView, SettingError, Setup
from pfedhr.algorithms.admission import unlike
from pfedhr.algorithms.averaging import mixed, plain_mean
from pfedhr.algorithms.needs import above_zero, at_least, one_structure, shares
from pfedhr.algorithms.private import common_weights, restore, train, weights_of
from pfedhr.parcel import Tensors
from pfedhr.seeding import generator


@dataclass(frozen=True)
class Distribution:
    """A distribution of networks: the network of the means, whole, and a rho for every weight that is distributed."""

    means: Tensors
    rhos: Tensors


@dataclass(frozen=True)
class Prior:
    """The shared distribution, as the server's state and as what goes down; None before the first round."""

    shared: Distribution | None


@dataclass(frozen=True)
class Believed:
    """A client's state: its own distribution, and the network of the shared means that it was given last."""

    own: Distribution
    shared: Tensors | None


@dataclass(frozen=True)
class PFedBayes(Algorithm):
    """Personalised federated learning by variational Bayesian inference."""

    divergence_weight: float = 0.1
    """Weight of the divergence from the shared distribution (zeta)."""
    initial_rho: float = -4.0
    """Where the rho of every weight begins; its deviation is ln(1 + e^rho)."""
    samples: int = 1
    """Networks that are drawn for each batch (K)."""
    mixing: float = 1.0
    """Share of the mean in the server's new distribution (beta)."""

    name = "pfedbayes"
    uncovered = "it draws a network for each batch, so its loss is not one of single examples"
    server_state = Prior
    client_state = Believed
    message_type = Prior
    reply_type = Distribution

    def check(self, setup: Setup) -> None:
        """Raise SettingError for several structures, or settings out of range."""
        one_structure(self, setup)
        at_least(self, divergence_weight=0, samples=1)
        above_zero(self, "mixing")
        shares(self, "mixing")
        if not math.isfinite(self.initial_rho):
            raise SettingError(f"algorithm.initial_rho = {self.initial_rho} of {self.name}: choose a number, such as -4")

    def init_server(self, view: ServerView) -> Prior:
        """Return no distribution yet."""
        return Prior(None)

    def init_client(self, view: ClientView) -> Believed:
        """Return the distribution that all clients begin with."""
        return Believed(self._begin(view), None)

    def message(self, server: Prior, client: str) -> Prior:
        """Return the shared distribution."""
        return server

    def client_step(self, state: Believed, message: Prior, view: ClientView) -> tuple[Believed, Distribution, Metrics]:
        """Train the client's own distribution and its copy of the shared one on the private examples."""
        pair = Pair(view, state.own, message.shared or self._begin(view)).to(view.device)
        examples = view.train.ready(view.device)
        noise = generator(view.seed, view.round, view.id, "noise")

        def loss(_: nn.Module, batch: Tensor) -> Tensor:
            inputs, labels = examples.inputs[batch], examples.labels[batch]
            drawn = [functional.cross_entropy(pair.draw(inputs, noise), labels) for _ in range(self.samples)]
            value = torch.stack(drawn).mean()
            if not self.divergence_weight:  # deviations may then be so small that the divergence is not finite
                return value
            return value + self.divergence_weight / len(examples) * pair.divergence()

        last = train(view, pair, loss, training=replace(view.training, weight_decay=0.0))
        own, shared = pair.split()
        return Believed(own, message.shared.means if message.shared else None), shared, {"loss": last}

    def faults(self, server: Prior, replies: Mapping[str, Distribution], view: ServerView) -> dict[str, str]:
        """Return which replies are of other distributions than the shared one."""
        means, rhos = ({client: getattr(one, part) for client, one in replies.items()} for part in ("means", "rhos"))
        shared = server.shared
        return unlike(means, shared and shared.means) | unlike(rhos, shared and shared.rhos)

    def server_step(self, server: Prior, replies: Mapping[str, Distribution], view: ServerView) -> tuple[Prior, Metrics]:
        """Return the mixture of the old distribution and the plain mean of the replies; of the mean alone at first."""
        sent = [replies[client] for client in sorted(replies)]
        means, rhos = plain_mean([one.means for one in sent]), plain_mean([one.rhos for one in sent])
        if server.shared is not None:
            means, rhos = mixed(server.shared.means, means, self.mixing), mixed(server.shared.rhos, rhos, self.mixing)
        return Prior(Distribution(means, rhos)), {}

    def personal_model(self, state: Believed, view: ClientView) -> nn.Module:
        """Return the network of the means of the client's own distribution."""
        return restore(view.network, state.own.means)

    def teacher_model(self, state: Believed, view: ClientView) -> nn.Module | None:
        """Return the network of the shared means that the client was given last."""
        return restore(view.network, state.shared) if state.shared else None

    def _begin(self, view: ClientView) -> Distribution:
        """Return the distribution that every client can make by itself."""
        means = common_weights(view.network, view.seed)
        rhos = {name: torch.full_like(means[name], self.initial_rho) for name in _names(restore(view.network, means))}
        return Distribution(means, rhos)


class Pair(nn.Module):
    """A client's own distribution and its copy of the shared one, trained side by side.

    The own means are the network's weights. What is not distributed is the network's, and begins as it is shared.
    """

    def __init__(self, view: ClientView, own: Distribution, shared: Distribution) -> None:
        super().__init__()
        self.network = restore(view.network, shared.means)
        self.places = distributed(self.network)
        self.names = _names(self.network)
        self.shared_means = _copies(shared.means, self.names)
        self.shared_rhos = _copies(shared.rhos, self.names)
        self.rhos = _copies(own.rhos, self.names)
        self._place([own.means[name] for name in self.names])

    def draw(self, inputs: Tensor, noise: torch.Generator) -> Tensor:
        """Return the logits of a network drawn from the client's own distribution, on a copy of `inputs`."""
        drawn = {
            name: torch.addcmul(mean, functional.softplus(rho), torch.randn(rho.shape, generator=noise).to(rho))
            for name, mean, rho in zip(self.names, self._means(), self.rhos, strict=True)
        }
        weights = {place: drawn[name] for place, name in self.places.items()}
        # Left to tie weights itself, it would put a layer that is used twice back with what was drawn.
        return functional_call(self.network, weights, (inputs.clone(),), tie_weights=False)

    def divergence(self) -> Tensor:
        """Return KL(own || shared)."""
        pairs = zip(self._means(), self.rhos, self.shared_means, self.shared_rhos, strict=True)
        return torch.stack(
            [
                gaussian_divergence(mean, functional.softplus(rho), other, functional.softplus(other_rho))
                for mean, rho, other, other_rho in pairs
            ]
        ).sum()

    def split(self) -> tuple[Distribution, Distribution]:
        """Return the client's own distribution and the shared one; the network is left with the shared means."""
        own = Distribution(weights_of(self.network), self._named(self.rhos))
        self._place(list(self.shared_means))
        return own, Distribution(weights_of(self.network), self._named(self.shared_rhos))

    def _means(self) -> list[Tensor]:
        weights = dict(self.network.named_parameters())
        return [weights[name] for name in self.names]

    def _place(self, means: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for weight, mean in zip(self._means(), means, strict=True):
                weight.copy_(mean)

    def _named(self, rhos: nn.ParameterList) -> Tensors:
        return {name: rho.detach().cpu().clone() for name, rho in zip(self.names, rhos, strict=True)}


def distributed(model: nn.Module) -> dict[str, str]:
    """Return the names of the weights that have a distribution, by place: those of layers that own a matrix, if they learn.

    A weight that several layers share has several places; a layer that is used twice has each of its own once.
    """
    names = {weight: name for name, weight in model.named_parameters()}
    places: dict[str, str] = {}
    for name, layer in model.named_modules():
        learnt = {own: weight for own, weight in layer.named_parameters(recurse=False) if weight.requires_grad}
        if any(weight.dim() >= 2 for weight in learnt.values()):
            places |= {".".join(filter(None, (name, own))): names[weight] for own, weight in learnt.items()}
    return places


def gaussian_divergence(mean: Tensor, deviation: Tensor, other_mean: Tensor, other_deviation: Tensor) -> Tensor:
    """Return KL(N(mean, deviation^2) || N(other_mean, other_deviation^2)), summed over all entries."""
    # Ratios first: the squares of small deviations would vanish.
    ratio = deviation / other_deviation
    distance = (mean - other_mean) / other_deviation
    return ((ratio.square() + distance.square() - 1) / 2 - ratio.log()).sum()


def _names(model: nn.Module) -> list[str]:
    return list(dict.fromkeys(distributed(model).values()))


def _copies(values: Tensors, names: Sequence[str]) -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(values[name].clone()) for name in names)
