"""What runs gave, as numbers: every metric is computed here, once, from run directories, and kept as CSV."""

from __future__ import annotations

import csv
import io
import statistics
import typing
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from pfedhr.disk import write
from pfedhr.errors import PfedhrError
from pfedhr.run import read_rounds
from pfedhr.statistics import worst_tenth
from pfedhr.study import Cell

STAGES = ("profile", "group", "propose", "assemble", "tune", "match")
"""The stages of a server's step that are timed by themselves."""


class ResultsError(PfedhrError):
    """A table of results that is missing or damaged; the message names the file and a remedy."""


@dataclass(frozen=True)
class ClientRow:
    """How one client ended in one cell: accuracies on its own test examples after the last round."""

    setting: str
    method: str
    seed: int
    client: str
    model: str
    parameters: int
    classes: str
    train: int
    test: int
    accuracy: float
    teacher_accuracy: float | None


@dataclass(frozen=True)
class CellRow:
    """What one cell gave and cost.

    Accuracies are over all clients, of the last round but for `best`, the highest mean of any round. Bytes are those of packed
    parcels, seconds those of all rounds together; `teacher_ratio` is (teacher - own) / own parameters, the mean over rounds and
    clients (pFedClub's phi), empty without teachers.
    """

    setting: str
    method: str
    seed: int
    rounds: int
    active: int
    public_use: str
    mean: float
    best: float
    worst: float
    worst_tenth: float
    deviation: float
    bytes_up: int
    bytes_down: int
    client_seconds: float
    server_seconds: float
    profile_seconds: float
    group_seconds: float
    propose_seconds: float
    assemble_seconds: float
    tune_seconds: float
    match_seconds: float
    candidates: float | None
    teacher_ratio: float | None


@dataclass(frozen=True)
class Results:
    """The rows of a study."""

    cells: tuple[CellRow, ...]
    clients: tuple[ClientRow, ...]

    def of(self, setting: str) -> Results:
        """Return the rows of one setting."""
        return Results(
            tuple(row for row in self.cells if row.setting == setting),
            tuple(row for row in self.clients if row.setting == setting),
        )

    @property
    def settings(self) -> list[str]:
        """The names of the settings, in order of appearance."""
        return list(dict.fromkeys(row.setting for row in self.cells))

    @property
    def methods(self) -> list[str]:
        """The labels of the methods, in order of appearance."""
        return list(dict.fromkeys(row.method for row in self.cells))

    def accuracies(self, method: str) -> dict[int, dict[str, float]]:
        """Return the accuracy of every client by seed, of one method in a single setting."""
        found: dict[int, dict[str, float]] = {}
        for row in self.clients:
            if row.method == method:
                found.setdefault(row.seed, {})[row.client] = row.accuracy
        return found


def collect(cells: Iterable[Cell], store: Path) -> Results:
    """Return the rows of finished cells in `store`."""
    rows, clients = list[CellRow](), list[ClientRow]()
    for cell in cells:
        held = _read_clients(cell, store / cell.folder / "clients.csv")
        rows.append(_summarise(cell, read_rounds(store / cell.folder), held))
        clients += held
    return Results(tuple(rows), tuple(clients))


def _read_clients(cell: Cell, path: Path) -> list[ClientRow]:
    place = {"setting": cell.setting, "method": cell.method, "seed": str(cell.seed)}
    names = [item.name for item in fields(ClientRow)]
    return [_row(ClientRow, {name: (record | place)[name] for name in names}) for record in _records(path)]


def _summarise(cell: Cell, rounds: Sequence[dict[str, Any]], clients: Sequence[ClientRow]) -> CellRow:
    accuracies = [row.accuracy for row in clients]

    def total(name: str) -> Any:
        return sum(record.get(name, 0) for record in rounds)

    ratios = [ratio for record in rounds for ratio in record.get("size_ratios", {}).values()]
    counts = [record["candidates"] for record in rounds if "candidates" in record]
    return CellRow(
        setting=cell.setting,
        method=cell.method,
        seed=cell.seed,
        rounds=len(rounds),
        active=cell.experiment.plan.active,
        public_use=cell.experiment.algorithm.public_use(cell.experiment.public.labelled),
        mean=statistics.fmean(accuracies),
        best=max(record["accuracy"]["mean"] for record in rounds if record["evaluated"]),
        worst=min(accuracies),
        worst_tenth=worst_tenth(accuracies),
        deviation=statistics.pstdev(accuracies),
        bytes_up=total("bytes_up"),
        bytes_down=total("bytes_down"),
        client_seconds=total("train_seconds"),
        server_seconds=total("server_seconds"),
        **{f"{stage}_seconds": float(total(f"{stage}_seconds")) for stage in STAGES},
        candidates=statistics.fmean(counts) if counts else None,
        teacher_ratio=statistics.fmean(ratios) if ratios else None,
    )


Row = TypeVar("Row", CellRow, ClientRow)


def write_results(results: Results, folder: Path) -> None:
    """Write the rows as cells.csv and clients.csv; `read_results` gives them back."""
    write(folder / "cells.csv", _csv(results.cells))
    write(folder / "clients.csv", _csv(results.clients))


def read_results(folder: Path) -> Results:
    """Return the rows in `folder`. Raises ResultsError if there are none, or other ones."""
    try:
        cells = tuple(_row(CellRow, record) for record in _records(folder / "cells.csv"))
        clients = tuple(_row(ClientRow, record) for record in _records(folder / "clients.csv"))
    except (KeyError, ValueError) as error:
        raise ResultsError(f"the tables in {folder} are not those of results: {type(error).__name__}: {error}") from error
    return Results(cells, clients)


def _csv(rows: Sequence[CellRow] | Sequence[ClientRow]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [item.name for item in fields(rows[0])], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)  # None becomes an empty cell
    return text.getvalue().encode()


def _records(path: Path) -> list[dict[str, str]]:
    try:
        return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    except FileNotFoundError as error:
        raise ResultsError(f"{path} is missing: give the folder of `pfedhr compare` or `pfedhr reproduce`") from error


def _row(cls: type[Row], record: dict[str, str]) -> Row:
    """Return a row from its cells; an empty one of an optional column is None. KeyError or ValueError if they do not fit."""
    kinds = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for item in fields(cls):
        kind, cell = kinds[item.name], record[item.name]
        if kind == float | None:
            values[item.name] = float(cell) if cell else None
        else:
            values[item.name] = kind(cell)
    return cls(**values)
