"""The experiment: everything that makes a run, as dataclasses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from pfedhr.algorithm import QUIET, Algorithm
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.data import DataOptions, PublicOptions
from pfedhr.disk import is_writable
from pfedhr.errors import PfedhrError
from pfedhr.federate import Schedule
from pfedhr.learning import Privacy, Training


class ExperimentError(PfedhrError):
    """An experiment that cannot be read or run; the message names the field, its value and a remedy."""


@dataclass(frozen=True)
class ClientOptions:
    """The clients and their networks."""

    count: int = 12
    """How many clients there are."""
    models: tuple[str, ...] = ("cnn1", "cnn2", "cnn3", "cnn4")
    """Their networks, dealt in turn: names of the zoo, or "package.module:factory"."""
    features: int = 0
    """Width that an adapter before the last layer gives the features of every network, which some methods need; 0 = none."""

    def __post_init__(self) -> None:
        _require(self.count >= 1, "clients.count", self.count, "1 or more")
        _require(len(self.models) >= 1, "clients.models", list(self.models), "at least one network")
        apart = not any("," in model for model in self.models)
        _require(apart, "clients.models", list(self.models), "names with spaces between, as in --clients.models cnn1 cnn2")
        _require(self.features >= 0, "clients.features", self.features, "0 for none, or a width such as 64")


@dataclass(frozen=True)
class PlanOptions:
    """The rounds, and how clients train in them."""

    rounds: int = 30
    """How many rounds."""
    active: int = 4
    """How many clients take part in a round."""
    local_epochs: int = 10
    """Epochs of private training in a round."""
    batch_size: int = 10
    """Batch size of private training."""
    learning_rate: float = 0.001
    """Learning rate of Adam."""
    weight_decay: float = 0.0001
    """Weight decay of Adam."""
    evaluate_every: int = 1
    """Rounds from one evaluation of all clients to the next; the last round is always evaluated."""

    def __post_init__(self) -> None:
        for name in ("rounds", "active", "local_epochs", "batch_size", "evaluate_every"):
            _require(getattr(self, name) >= 1, f"plan.{name}", getattr(self, name), "1 or more")
        _require(0 < self.learning_rate < math.inf, "plan.learning_rate", self.learning_rate, "a number above 0")
        _require(0 <= self.weight_decay < math.inf, "plan.weight_decay", self.weight_decay, "0, or a number above it")

    @property
    def schedule(self) -> Schedule:
        """The loop's part of the plan."""
        return Schedule(self.rounds, self.active, self.evaluate_every)

    @property
    def training(self) -> Training:
        """The clients' part of the plan."""
        return Training(self.local_epochs, self.batch_size, self.learning_rate, self.weight_decay)


@dataclass(frozen=True)
class EngineOptions:
    """What an engine does about clients that do not answer; no result depends on it as long as all do."""

    min_clients: int = 1
    """How many of a round's clients must reply for the round to end."""
    round_timeout: float = 600.0
    """Seconds that a round waits for replies, and that the start waits for clients."""
    retries: int = 3
    """How often a round with too few replies is tried again before the run stops, to be resumed."""

    def __post_init__(self) -> None:
        _require(self.min_clients >= 0, "engine.min_clients", self.min_clients, "0 or more")
        _require(self.round_timeout > 0, "engine.round_timeout", self.round_timeout, "a number above 0")
        _require(self.retries >= 0, "engine.retries", self.retries, "0 or more")


@dataclass(frozen=True)
class PrivacyOptions:
    """Differential privacy of the clients' examples, by DP-SGD; see docs/privacy.md."""

    noise: float = 0.0
    """Standard deviation of the noise on the sum of clipped gradients, in units of clip; 0 = no privacy."""
    clip: float = 1.0
    """Norm that the gradient of a single example is clipped to."""
    delta: float = 1e-5
    """Probability for which epsilon need not hold; below one over the examples of any client."""

    def __post_init__(self) -> None:
        _require(0 <= self.noise < math.inf, "privacy.noise", self.noise, "0 for no privacy, or a number above 0 such as 1.0")
        _require(0 < self.clip < math.inf, "privacy.clip", self.clip, "a number above 0")
        _require(0 < self.delta < 1, "privacy.delta", self.delta, "a number between 0 and 1, such as 1e-5")

    @property
    def privacy(self) -> Privacy | None:
        """The clients' part of it, None where there is no noise."""
        return Privacy(self.noise, self.clip, self.delta) if self.noise else None


@dataclass(frozen=True)
class Experiment:
    """A run in full: equal experiments give equal numbers.

    A section that is `quiet` is written only where it differs from its default, so that the text of an experiment that does
    without it, by which finished runs are found, stays as it was before there was such a section.
    """

    name: str = "experiment"
    """A word for the run; its directory is named after it."""
    seed: int = 0
    """What all random numbers come from."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks run; auto takes a CUDA device if there is one."""
    workers: int = 1
    """Processes of one thread each that clients train in; the numbers do not depend on it."""
    compare_local: bool = True
    """Whether the same clients also learn alone, to compare with."""
    data: DataOptions = field(default_factory=DataOptions)
    public: PublicOptions = field(default_factory=PublicOptions)
    clients: ClientOptions = field(default_factory=ClientOptions)
    plan: PlanOptions = field(default_factory=PlanOptions)
    privacy: PrivacyOptions = field(default_factory=PrivacyOptions, metadata={QUIET: True})
    algorithm: Algorithm = field(default_factory=PFedHR)
    engine: EngineOptions = field(default_factory=EngineOptions, metadata={QUIET: True})

    def __post_init__(self) -> None:
        # Its directory is runs/NAME, which the two dots would lead out of.
        fits = self.name not in ("", ".", "..") and "/" not in self.name and is_writable(self.name)
        _require(fits, "name", self.name, "a word in UTF-8 without a slash or a zero byte")
        _require(self.workers >= 1, "workers", self.workers, "1 or more")
        devices = ("auto", "cpu", "cuda")
        _require(self.device in devices, "device", self.device, f"one of {', '.join(devices)}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ExperimentError("device = 'cuda': there is no CUDA device here; choose 'cpu' or 'auto'")
        if self.plan.active > self.clients.count:
            raise ExperimentError(
                f"plan.active = {self.plan.active}: there are {self.clients.count} clients only; choose at most "
                f"{self.clients.count}, or raise clients.count"
            )
        if self.engine.min_clients > self.plan.active:
            raise ExperimentError(
                f"engine.min_clients = {self.engine.min_clients}: a round has plan.active = {self.plan.active} clients; choose "
                f"at most as many"
            )

    @property
    def torch_device(self) -> torch.device:
        """The device that `device` stands for."""
        return torch.device(self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")


def _require(holds: bool, place: str, value: Any, remedy: str) -> None:
    if not holds:
        raise ExperimentError(f"{place} = {value!r}: choose {remedy}")
