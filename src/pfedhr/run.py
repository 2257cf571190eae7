"""The run directory: what a run leaves on disk, so written that a process killed at any moment can be taken up again.

    experiment.toml            the whole experiment; it makes the run again
    rounds.jsonl               a line a round
    clients.csv                a line a client, at the end
    models/CLIENT.safetensors  every client's network, at the end
    checkpoint/                where the run stands

A file counts only once it has its final name, which it gets when all of it is on the disk. States are written under new
names as they come, and `checkpoint/latest.parcel` says which of them belong together: replacing it ends a round.
"""

from __future__ import annotations

import csv
import io
import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import safetensors.torch

from pfedhr.errors import PfedhrError
from pfedhr.federate import Progress, RoundResult
from pfedhr.parcel import Tensors, pack, unpack
from pfedhr.transport import Scores


class RunError(PfedhrError):
    """A run directory that is in the way, or is not one; the message names it and a remedy."""


UNFINISHED = ".unfinished"
"""Ends the names of files that are being written. What a killed process leaves of them counts for nothing."""


def write(path: Path, content: bytes) -> None:
    """Give `path` this content: all of it, or, if the process ends before, none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + UNFINISHED)
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
    not measured.
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


class RunDirectory:
    """One run on disk; also the store of its clients' states."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder = path / "checkpoint"
        latest = self._folder / "latest.parcel"
        self._checkpoint = unpack(Checkpoint, latest.read_bytes()) if latest.exists() else None
        self._states = dict(self._checkpoint.states) if self._checkpoint else {}
        self._round = self._checkpoint.round if self._checkpoint else 0
        self._drop_lines_after(self._round)
        for leftover in path.rglob(f"*{UNFINISHED}"):
            leftover.unlink()

    @classmethod
    def create(cls, path: Path, experiment: str) -> RunDirectory:
        """Begin a run in `path`, which must not hold one. Raises RunError if it holds anything."""
        if path.exists() and (not path.is_dir() or any(entry.suffix != UNFINISHED for entry in path.iterdir())):
            raise RunError(f"{path} is not empty: choose another --out, or go on with it by `pfedhr run --resume {path}`")
        write(path / "experiment.toml", experiment.encode())
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Return the run in `path`, at the last round that it finished. Raises RunError if there is none."""
        if not (path / "experiment.toml").is_file():
            raise RunError(f"{path} holds no experiment.toml, so it is not a run: give the directory that --out named")
        return cls(path)

    @property
    def experiment(self) -> str:
        """The text of experiment.toml."""
        return (self.path / "experiment.toml").read_text()

    @property
    def progress(self) -> Progress | None:
        """Where the run stands, or None before its first round has ended."""
        if not self._checkpoint:
            return None
        server = (self._folder / self._checkpoint.server).read_bytes()
        unscored = frozenset(self._checkpoint.unscored)
        return Progress(self._checkpoint.round, server, self._checkpoint.scores, unscored)

    def load(self, client: str) -> bytes | None:
        """Return the client's state that was saved last, if any."""
        return (self._folder / self._states[client]).read_bytes() if client in self._states else None

    def save(self, client: str, state: bytes) -> None:
        """Keep a client's new state; it counts from the end of the round on."""
        name = f"{client}-{self._round + 1}.parcel"
        write(self._folder / name, state)
        self._states[client] = name

    def rounds(self) -> list[dict[str, Any]]:
        """Return the records of the rounds that have ended."""
        path = self.path / "rounds.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def end_round(self, result: RoundResult) -> None:
        """Write the round's line and where the run now stands, then delete the states that it has left behind."""
        with (self.path / "rounds.jsonl").open("ab") as file:
            file.write(json.dumps(record(result)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        after = result.progress
        server = f"server-{after.round}.parcel"
        write(self._folder / server, after.server)
        unscored = tuple(sorted(after.unscored))
        self._checkpoint = Checkpoint(after.round, server, dict(self._states), dict(after.scores), unscored)
        write(self._folder / "latest.parcel", pack(self._checkpoint))
        self._round = after.round
        kept = {"latest.parcel", server, *self._states.values()}
        for path in self._folder.iterdir():
            if path.name not in kept:
                path.unlink()

    def save_network(self, client: str, weights: Tensors) -> None:
        """Write a client's network."""
        write(self.path / "models" / f"{client}.safetensors", safetensors.torch.save(weights))

    def finish(self, outcomes: Sequence[ClientOutcome]) -> None:
        """Write clients.csv, a row a client."""
        table = io.StringIO(newline="")
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(item.name for item in fields(ClientOutcome))
        for outcome in outcomes:
            cells = asdict(outcome) | {"classes": " ".join(map(str, outcome.classes))}
            writer.writerow(cells.values())  # None becomes an empty cell
        write(self.path / "clients.csv", table.getvalue().encode())

    def _drop_lines_after(self, round: int) -> None:
        """Drop lines of rounds that did not end, and a half-written one."""
        path = self.path / "rounds.jsonl"
        if path.exists() and len(lines := path.read_bytes().splitlines(keepends=True)) > round:
            write(path, b"".join(lines[:round]))


def record(result: RoundResult) -> dict[str, Any]:
    """Return the line of rounds.jsonl: the accuracy is over all clients, at their last evaluation."""
    scored = {client: scores.own.accuracy for client, scores in sorted(result.scores.items())}
    values = list(scored.values())
    accuracy = {"mean": statistics.fmean(values), "std": statistics.pstdev(values), "min": min(values)} if values else None
    trained = {client: metrics for client, metrics in result.clients.items() if "train_seconds" in metrics}
    return {
        "round": result.round,
        "seconds": result.seconds,
        "server_seconds": result.server_seconds,
        "train_seconds": sum(metrics["train_seconds"] for metrics in trained.values()),
        "evaluate_seconds": sum(metrics.get("evaluate_seconds", 0.0) for metrics in result.clients.values()),
        "bytes_up": result.bytes_up,
        "bytes_down": result.bytes_down,
        "active": list(result.active),
        "evaluated": result.evaluated,
        "accuracy": accuracy,
        "losses": {client: metrics.get("loss") for client, metrics in trained.items()},
        **result.server,
    }
