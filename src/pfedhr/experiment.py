"""The experiment file: everything that makes a run, as dataclasses and as TOML."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import typing
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch

from pfedhr.algorithm import Algorithm
from pfedhr.algorithms import ALGORITHMS
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.data import DataOptions, PublicOptions
from pfedhr.errors import PfedhrError
from pfedhr.federate import Schedule
from pfedhr.learning import Training


class ExperimentError(PfedhrError):
    """An experiment that cannot be read or run; the message names the field, its value and a remedy."""


@dataclass(frozen=True)
class ClientOptions:
    """The clients and their networks."""

    count: int = 12
    """How many clients there are."""
    models: tuple[str, ...] = ("cnn1", "cnn2", "cnn3", "cnn4")
    """Their networks, dealt in turn: names of the zoo, or "package.module:factory"."""

    def __post_init__(self) -> None:
        _require(self.count >= 1, "clients.count", self.count, "1 or more")
        _require(len(self.models) >= 1, "clients.models", list(self.models), "at least one network")


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
        _require(self.learning_rate > 0, "plan.learning_rate", self.learning_rate, "a number above 0")
        _require(self.weight_decay >= 0, "plan.weight_decay", self.weight_decay, "0 or more")

    @property
    def schedule(self) -> Schedule:
        """The loop's part of the plan."""
        return Schedule(self.rounds, self.active, self.evaluate_every)

    @property
    def training(self) -> Training:
        """The clients' part of the plan."""
        return Training(self.local_epochs, self.batch_size, self.learning_rate, self.weight_decay)


@dataclass(frozen=True)
class Experiment:
    """A run in full: equal experiments give equal numbers."""

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
    algorithm: Algorithm = field(default_factory=PFedHR)

    def __post_init__(self) -> None:
        _require(bool(self.name) and "/" not in self.name, "name", self.name, "a word without a slash")
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

    @property
    def torch_device(self) -> torch.device:
        """The device that `device` stands for."""
        chosen = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(chosen)


def _require(holds: bool, place: str, value: Any, remedy: str) -> None:
    if not holds:
        raise ExperimentError(f"{place} = {value!r}: choose {remedy}")


def presets() -> dict[str, str]:
    """Return the presets: name and TOML text."""
    files = resources.files("pfedhr") / "presets"
    found = sorted(files.iterdir(), key=lambda path: path.name)
    return {path.name.removesuffix(".toml"): path.read_text() for path in found if path.name.endswith(".toml")}


def load_experiment(name: str) -> Experiment:
    """Return the preset of this name, or what is in the file `name`. Raises ExperimentError if there is neither."""
    known = presets()
    if name in known:
        return parse(known[name], f"preset {name}")
    path = Path(name)
    if path.is_file():
        return parse(path.read_text(), name)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ExperimentError(f"there is no preset and no file {name!r}: {hint}presets are {', '.join(known)}")


def parse(text: str, place: str) -> Experiment:
    """Return the experiment of a TOML text; `place` is where it was found. Raises ExperimentError naming field and place."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ExperimentError(f"{place} is not TOML: {error}") from error
    return _from_table(Experiment, table, "", place)


def _from_table(cls: Any, table: Any, path: str, place: str) -> Any:
    """Return a dataclass from a table; every key must be a field, and every value of the field's type."""
    if not isinstance(table, dict):
        raise ExperimentError(f"{path.rstrip('.')} = {table!r} in {place}: a section [{path.rstrip('.')}] was expected")
    table = dict(table)
    if cls is Algorithm:
        cls = algorithm_class(table.pop("name", "pfedhr"), place)
    known = {item.name for item in dataclasses.fields(cls)}
    kinds = typing.get_type_hints(cls)
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {path}{near[0]}? " if near else ""
            raise ExperimentError(f"unknown field {path}{key} in {place}: {hint}known are {', '.join(sorted(known))}")
    return cls(**{key: _from_value(kinds[key], value, f"{path}{key}", place) for key, value in table.items()})


def algorithm_class(name: Any, place: str) -> type[Algorithm]:
    """Return the method called `name`. Raises ExperimentError naming those there are."""
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    near = difflib.get_close_matches(str(name), ALGORITHMS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ExperimentError(f"algorithm.name = {name!r} in {place}: {hint}known are {', '.join(ALGORITHMS)}")


def _from_value(kind: Any, value: Any, path: str, place: str) -> Any:
    if kind is Algorithm or dataclasses.is_dataclass(kind):
        return _from_table(kind, value, f"{path}.", place)
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise ExperimentError(f"{path} = {value!r} in {place}: choose one of {', '.join(map(str, choices))}")
        return value
    if kind is float and type(value) is int:
        return float(value)
    wanted = list if typing.get_origin(kind) is tuple else kind
    if type(value) is not wanted or (wanted is list and not all(isinstance(item, str) for item in value)):
        name = "list of strings" if wanted is list else wanted.__name__
        raise ExperimentError(f"{path} = {value!r} in {place}: a value of type {name} was expected")
    return tuple(value) if wanted is list else value


def dump(experiment: Experiment) -> str:
    """Return the experiment as TOML, every field of it: `parse` gives it back."""
    fields = dataclasses.fields(experiment)
    plain = {item.name: getattr(experiment, item.name) for item in fields}
    lines = [f"{key} = {_toml(value)}" for key, value in plain.items() if not dataclasses.is_dataclass(value)]
    for section, value in plain.items():
        if dataclasses.is_dataclass(value):
            lines += ["", f"[{section}]"]
            lines += [f"name = {_toml(value.name)}"] if isinstance(value, Algorithm) else []
            lines += [f"{item.name} = {_toml(getattr(value, item.name))}" for item in dataclasses.fields(value)]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    match value:
        case tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case float():
            return repr(value)
        case _:
            return json.dumps(value, ensure_ascii=False)
