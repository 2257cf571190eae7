"""The run directory: what a run leaves on disk, so written that a process killed at any moment can be taken up again.

    experiment.toml            the whole experiment; it makes the run again
    rounds.jsonl               a line a round
    data.sha256                digests of the data; clients.csv: a line a client, at the end
    models/CLIENT.safetensors  every client's network, at the end
    checkpoint/                where the run stands, and the experiment that it was begun with

A file counts only once it has its final name, which it gets when all of it is on the disk. States are written under new
names as they come, and `checkpoint/latest.parcel` says which of them belong together: replacing it ends a round.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from pfedhr.disk import UNFINISHED, csv_bytes, csv_records, csv_row, write
from pfedhr.errors import RunError
from pfedhr.federate import Progress, RoundResult
from pfedhr.parcel import ParcelError, Tensors, check_parcel, pack, unpack
from pfedhr.record import lines_of, lost, read_rounds, record
from pfedhr.transport import Scores

RUN_NAME = "flower-run"
"""Holds, in the directory of a run whose clients keep their states themselves, what the run is called to them."""

BEGUN = "checkpoint/experiment.toml"
"""Holds, in a run's directory, the experiment that the run was begun with."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands after `round`: the files of the server's and the clients' states, and the loop's own progress."""

    round: int
    server: str
    states: dict[str, str]
    scores: dict[str, Scores]
    unscored: tuple[str, ...]


@dataclass(frozen=True)
class ClientOutcome:
    """How one client ended: a row of clients.csv.

    `train` and `test` count examples; `teacher_accuracy` is None without a teacher, `alone_accuracy` where learning alone was
    not measured, `epsilon` without differential privacy.
    """

    client: str
    model: str
    parameters: int
    train: int
    test: int
    classes: tuple[int, ...]
    accuracy: float
    teacher_accuracy: float | None
    alone_accuracy: float | None
    epsilon: float | None


class RunDirectory:
    """One run on disk; also the store of its clients' states."""

    def __init__(self, path: Path) -> None:
        """Open the run in `path` at the last round that it finished. Raises RunError if it is none, or damaged."""
        read_experiment(path)
        self.path = path
        self._folder = path / "checkpoint"
        self._checkpoint = self._read_checkpoint()
        self._states = dict(self._checkpoint.states) if self._checkpoint else {}
        self._round = self._checkpoint.round if self._checkpoint else 0
        self._keep_experiment()
        self._drop_line_of_unfinished_round()
        self._sweep()

    @classmethod
    def create(cls, path: Path, experiment: str) -> RunDirectory:
        """Begin a run in `path`. Raises RunError if it holds anything."""
        check_free(path)
        write(path / "experiment.toml", experiment.encode())
        return cls(path)

    @property
    def progress(self) -> Progress | None:
        """Where the run stands, or None before its first round has ended."""
        if not self._checkpoint:
            return None
        server = self._read(self._checkpoint.server)
        unscored = frozenset(self._checkpoint.unscored)
        return Progress(self._checkpoint.round, server, self._checkpoint.scores, unscored)

    def load(self, client: str) -> bytes | None:
        """Return the client's state that was saved last, if any."""
        return self._read(self._states[client]) if client in self._states else None

    def save(self, client: str, state: bytes) -> None:
        """Keep a client's new state; it counts from the end of the round on."""
        name = f"{client}-{self._round + 1}.parcel"
        write(self._folder / name, state)
        self._states[client] = name

    def rounds(self) -> list[dict[str, Any]]:
        """Return the records of the rounds that have ended."""
        return read_rounds(self.path)

    def end_round(self, result: RoundResult) -> None:
        """Write the round's line and where the run now stands, then delete the states that it has left behind."""
        if (self.path / "clients.csv").exists():
            (self.path / "clients.csv").unlink()  # of an end that is none any more: rounds have been added
        with (self.path / "rounds.jsonl").open("ab") as file:
            file.write(json.dumps(record(result)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        after = result.progress
        server = f"server.{after.round}.parcel"  # without the hyphen that is in the name of every client's file
        write(self._folder / server, after.server)
        unscored = tuple(sorted(after.unscored))
        self._checkpoint = Checkpoint(
            after.round, server, dict(sorted(self._states.items())), dict(sorted(after.scores.items())), unscored
        )
        write(self._folder / "latest.parcel", pack(self._checkpoint))
        self._round = after.round
        self._sweep()

    def save_network(self, client: str, weights: Tensors) -> None:
        """Write a client's network."""
        write(self.path / "models" / f"{client}.safetensors", safetensors.torch.save(weights))

    def finish(self, outcomes: Sequence[ClientOutcome]) -> None:
        """Write clients.csv, a row a client."""
        rows = [asdict(outcome) | {"classes": " ".join(map(str, outcome.classes))} for outcome in outcomes]
        write(self.path / "clients.csv", csv_bytes(rows))

    def _read(self, name: str) -> bytes:
        """Return a state by the name of its file. Raises RunError if it is gone or damaged."""
        path = self._folder / Path(name).name
        try:
            state = path.read_bytes()
            check_parcel(state)
        except FileNotFoundError as error:
            raise lost(path, "is missing") from error
        except ParcelError as error:
            raise lost(path, f"is damaged ({error})") from error
        return state

    def _read_checkpoint(self) -> Checkpoint | None:
        path = self._folder / "latest.parcel"
        if path.exists():
            try:
                return unpack(Checkpoint, path.read_bytes())
            except ParcelError as error:
                raise lost(path, f"is damaged ({error})") from error
        if len(lines_of(self.path)) > 1 or (self.path / "clients.csv").exists():
            raise lost(path, "is missing")
        return None

    def _keep_experiment(self) -> None:
        """Keep what the rounds are of, before the first: experiment.toml may be changed by hand."""
        path = self.path / BEGUN
        if self._checkpoint is None and not path.exists():
            write(path, read_experiment(self.path).encode())

    def _drop_line_of_unfinished_round(self) -> None:
        """Drop the line, whole or not, of a round whose end did not reach the checkpoint."""
        path = self.path / "rounds.jsonl"
        lines = lines_of(self.path)
        if not self._round <= len(lines) <= self._round + 1:
            raise RunError(f"{path} has {len(lines)} rounds, and the checkpoint is of round {self._round}: restore either")
        kept = b"".join(lines[: self._round])
        if path.exists() and path.stat().st_size != len(kept):
            write(path, kept)

    def _sweep(self) -> None:
        """Delete the states that the run has left behind, and what a killed process left unfinished."""
        kept = {"latest.parcel", Path(BEGUN).name, *self._states.values()} | (
            {self._checkpoint.server} if self._checkpoint else set()
        )
        left = [path for path in self._folder.glob("*") if path.name not in kept]
        left += [*self.path.glob(f"*{UNFINISHED}"), *(self.path / "models").glob(f"*{UNFINISHED}")]
        for path in left:
            path.unlink()


def check_free(path: Path) -> None:
    """Raise RunError if there is anything in `path` that a new run there would mix with."""
    if path.exists() and (not path.is_dir() or any(entry.name != f"experiment.toml{UNFINISHED}" for entry in path.iterdir())):
        raise RunError(f"{path} is not empty: choose another --out, or go on with it by `{resuming(path)}`")


def resuming(path: Path, flower: bool = False) -> str:
    """Return the command that goes on with the run in `path`, in-process or on Flower."""
    return shlex.join(["pfedhr", "run", "--resume", str(path), *(["--engine", "flower"] if flower else [])])


def read_experiment(path: Path) -> str:
    """Return the text of the run's experiment.toml, and touch nothing. Raises RunError if `path` is not a run."""
    file = path / "experiment.toml"
    if not file.is_file():
        raise RunError(f"{path} holds no experiment.toml, so it is not a run: give the directory that --out named")
    return file.read_text(encoding="utf-8")


def read_begun(path: Path) -> str | None:
    """Return the text of the experiment that the run in `path` was begun with, if it has been kept."""
    file = path / BEGUN
    return file.read_text(encoding="utf-8") if file.exists() else None


def run_name(path: Path, directory: RunDirectory) -> str:
    """Return what the run in `directory`, which is `path` or below it, is called to its clients; it never changes."""
    file = path / RUN_NAME
    if not file.exists():
        write(file, secrets.token_hex(8).encode())
    return file.read_text() + ("" if directory.path == path else "-local")


def on_flower(path: Path) -> bool:
    """Return whether the run in `path` was begun on Flower, so that its clients keep their states themselves."""
    return (path / RUN_NAME).exists()


def read_outcomes(path: Path) -> list[ClientOutcome]:
    """Return the rows of clients.csv of the run in `path`."""
    return [csv_row(ClientOutcome, record) for record in csv_records(path / "clients.csv")]
