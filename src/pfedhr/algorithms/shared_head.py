"""What methods share whose networks differ but for a common last layer, the head."""

from __future__ import annotations

import functools

from pfedhr.algorithm import Setup
from pfedhr.algorithms.held import SendsShared, Shared
from pfedhr.algorithms.needs import common_features
from pfedhr.algorithms.own import Own, OwnNetwork
from pfedhr.heads import head_name
from pfedhr.models import ModelSpec, build
from pfedhr.parcel import Tensors


class SharedHead(SendsShared, OwnNetwork):
    """A method whose server sends one head to all clients, which begin their training with it."""

    def check(self, setup: Setup) -> None:
        """Raise SettingError unless all heads have one shape."""
        common_features(self, setup)


def take_head(network: ModelSpec, weights: Tensors) -> Tensors:
    """Return the weights of the network's last linear layer, "weight" (classes, features) and "bias" (classes,)."""
    prefix = _prefix(network)
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def with_head(network: ModelSpec, state: Own, message: Shared) -> Tensors:
    """Return the client's weights with the head that came, if one came."""
    return state.weights | {_prefix(network) + name: value for name, value in (message.weights or {}).items()}


@functools.cache
def _prefix(network: ModelSpec) -> str:
    """Return what the names of the head's weights begin with."""
    return head_name(build(network, 0), network.classes) + "."
