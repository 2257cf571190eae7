"""Methods of a user's own, of use and of none, as "toy_methods:CLASS"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pfedhr.algorithm import Algorithm, ClientView, Metrics
from pfedhr.algorithms.fedavg import FedAvg
from pfedhr.algorithms.held import Held, Shared
from pfedhr.algorithms.homogeneous import Trained
from pfedhr.algorithms.local import Local

NUMBER = 3


@dataclass(frozen=True)
class Damped(FedAvg):
    """FedAvg whose clients send what is part of the way from what they were given."""

    share: float = 0.5
    kind: Literal["linear", "none"] = "linear"
    layers: tuple[str, ...] = ()

    name = "damped"

    def client_step(self, state: Held, message: Shared, view: ClientView) -> tuple[Held, Trained, Metrics]:
        """Train, and send part of the way."""
        held, sent, metrics = super().client_step(state, message, view)
        if message.weights is None or self.kind == "none":
            return held, sent, metrics
        moved = {
            key: message.weights[key].lerp(value, self.share) if value.is_floating_point() else value
            for key, value in sent.weights.items()
        }
        return held, Trained(moved, sent.examples), metrics


@dataclass(frozen=True)
class SameLabel(Local):
    name = "damped"


@dataclass(frozen=True)
class Unnamed(Local):
    pass


@dataclass(frozen=True)
class Spaced(Local):
    name = "../my method"


class Undecorated(Local):
    name = "undecorated"
    weight: float = 1.0


@dataclass(frozen=True)
class Unfinished(Algorithm):
    name = "unfinished"


@dataclass(frozen=True)
class WithoutDefault(Local):
    name = "without-default"
    weight: float  # type: ignore[misc]


@dataclass(frozen=True)
class Odd(Local):
    name = "odd"
    weight: float | None = None


@dataclass(frozen=True)
class Unreadable(Local):
    name = "unreadable"
    weight: Absent = 1.0  # type: ignore[name-defined]  # noqa: F821


def no_class() -> None:
    """Be no method."""
