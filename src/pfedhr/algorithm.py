"""The seam that every method stands on: pure methods over explicit state, and what each side may see, by type."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from pfedhr.data import Examples, Public, ready
from pfedhr.errors import PfedhrError
from pfedhr.learning import Privacy, Training
from pfedhr.models import ModelSpec

Metrics = dict[str, Any]
"""What a step tells about itself, JSON-able. Names that hold "seconds" are times, and the only values that may vary."""

PublicUse = Literal["none", "inputs at the server", "labels at the server", "inputs at clients", "labels at clients"]
"""What a method takes of the public data, and who has to hold it."""

QUIET = "quiet"
"""In the metadata of a section: an experiment's file tells it only where it is not at its defaults, so that files stay what
they were before there was such a section."""

Job = TypeVar("Job")
Result = TypeVar("Result")


class SettingError(PfedhrError):
    """A setting that cannot work, found before any training; the message names it, its value and a remedy."""


class Map(Protocol):
    """Runs independent work of the server, side by side where the engine can."""

    def __call__(self, work: Callable[[Job, ServerView], Result], jobs: Sequence[Job], result: type[Result]) -> list[Result]:
        """Return `work(job, view)` for every job in order; jobs and results must be what `parcel.pack` takes."""
        ...


@dataclass(frozen=True)
class ClientView:
    """What a client may see: its own examples and the public data. `privacy`: how its own are protected, None = not at all."""

    id: str
    network: ModelSpec
    train: Examples
    public: Public
    training: Training
    privacy: Privacy | None
    round: int
    seed: int
    device: torch.device


@dataclass(frozen=True)
class ServerView:
    """What the server may see: no private data. `mirror`: whether a mirror image of the public data keeps its class."""

    public: Public
    classes: int
    mirror: bool
    round: int
    seed: int
    device: torch.device
    map: Map

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.public.inputs.shape[1:])


@dataclass(frozen=True)
class Setup:
    """What is known before the first round, for `Algorithm.check`."""

    networks: Mapping[str, ModelSpec]
    public: Public
    training: Training
    active: int

    @property
    def structures(self) -> tuple[ModelSpec, ...]:
        """The networks that clients have, each once, in an order that depends on nothing else."""
        return tuple(sorted(set(self.networks.values()), key=astuple))

    @property
    def examples(self) -> Tensor:
        """Up to three inputs (n, ...), as networks take them; blank ones where there is no public data."""
        inputs = self.public.inputs[:3]
        return ready(inputs if len(inputs) else inputs.new_zeros(3, *inputs.shape[1:]), torch.device("cpu"))


class Algorithm(ABC):
    """A method of federated learning: a frozen dataclass of hyper-parameters whose methods are pure.

    States, messages and replies are dataclasses that `parcel.pack` takes, of the types that the class names. No method changes
    its arguments, and all chance comes from `seeding` under the view's seed, round and names.
    """

    name: ClassVar[str]
    server_state: ClassVar[type[Any]]
    client_state: ClassVar[type[Any]]
    message_type: ClassVar[type[Any]]
    reply_type: ClassVar[type[Any]]
    uncovered: ClassVar[str | None] = "nobody has shown that its private training is all that it does with private examples"
    """Why DP-SGD in `private.train` would not cover all that the method does with private examples; None if it does.

    A method that is covered calls `private.train` once a round, with the view's training and a loss that is a mean over
    examples, and private examples leave no other mark on its state or on what goes up. None is not inherited: a method says so
    of itself, for what it adds to another may be what is not covered.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Other sets of defaults than the class's, by their names: what `algorithm.preset` may be."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.uncovered is None and "uncovered" not in vars(cls):
            cls.uncovered = Algorithm.uncovered

    @abstractmethod
    def check(self, setup: Setup) -> None:
        """Raise SettingError, or what a network's own check raises, if this method cannot run on `setup`."""

    def public_use(self, labelled: bool) -> PublicUse:
        """Return what the method takes of public data that has labels or not: extra data, which comparisons must tell."""
        return "none"

    def trained(self, network: ModelSpec) -> tuple[ModelSpec, ...]:
        """Return the networks that a client of `network` trains on its private examples."""
        return (network,)

    @abstractmethod
    def init_server(self, view: ServerView) -> Any:
        """Return the server's state before the first round."""

    @abstractmethod
    def init_client(self, view: ClientView) -> Any:
        """Return a client's state before it has ever taken part."""

    @abstractmethod
    def message(self, server: Any, client: str) -> Any:
        """Return what goes down to `client` at the start of a round."""

    @abstractmethod
    def client_step(self, state: Any, message: Any, view: ClientView) -> tuple[Any, Any, Metrics]:
        """Return the client's new state, what goes up, and metrics."""

    def faults(self, server: Any, replies: Mapping[str, Any], view: ServerView) -> dict[str, str]:
        """Return why replies are of no use to the server's step, by client, for those that are not.

        The step is spared them, and the clients stay as they were. Replies hold neither NaN nor positive infinity.
        """
        return {}

    @abstractmethod
    def server_step(self, server: Any, replies: Mapping[str, Any], view: ServerView) -> tuple[Any, Metrics]:
        """Return the server's new state and metrics, given the replies that arrived, at least one, by client."""

    @abstractmethod
    def personal_model(self, state: Any, view: ClientView) -> nn.Module:
        """Return the network that serves the client, which is what is evaluated."""

    @abstractmethod
    def teacher_model(self, state: Any, view: ClientView) -> nn.Module | None:
        """Return the network that the client learns from, or None if the method has none or the client holds none yet."""
