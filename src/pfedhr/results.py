"""What runs gave, as numbers: every metric is computed here, once, from run directories, and kept as CSV."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pfedhr.algorithms.stopwatch import STAGES
from pfedhr.disk import csv_bytes, csv_records, csv_row, write
from pfedhr.errors import PfedhrError
from pfedhr.run import RunError, read_rounds
from pfedhr.statistics import mean_or_none, worst_tenth
from pfedhr.stored import read_data
from pfedhr.study import MADE, Cell, is_finished


class ResultsError(PfedhrError):
    """A table of results that is missing or damaged; the message names the file and a remedy."""


@dataclass(frozen=True)
class ClientRow:
    """How one client ended in one cell: accuracies on its own test examples after the last round.

    `epsilon`: what its training has spent of its privacy, None without; tables from before there was any have no such column.
    """

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
    epsilon: float | None = None


@dataclass(frozen=True)
class CellRow:
    """What one cell gave and cost.

    Accuracies are over all clients, of the last round but for `best`, the highest mean of any round. Bytes are those of packed
    parcels, seconds those of all rounds together; `teacher_ratio` is (teacher - own) / own parameters, the mean over rounds and
    clients (pFedClub's phi), empty without teachers. `folder` is where the run is kept, shared by settings that do not differ
    for the method; `versions`, `machine` and `date` say how it was made, and `data` is the digest of its clients' examples, or
    empty in tables from before it was kept.
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
    ensemble_seconds: float
    tune_seconds: float
    match_seconds: float
    candidates: float | None
    teacher_ratio: float | None
    folder: str
    versions: str
    machine: str
    date: str
    data: str = ""


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


@dataclass(frozen=True)
class Run:
    """The rows of one run, whatever setting and method they are told under."""

    cell: CellRow
    clients: tuple[ClientRow, ...]

    def told_as(self, cell: Cell) -> Run:
        """Return the rows as those of `cell`, which shares the run."""
        place = {"setting": cell.setting, "method": cell.method, "seed": cell.seed}
        return Run(replace(self.cell, **place), tuple(replace(row, **place) for row in self.clients))


def told_runs(folders: Iterable[Path]) -> dict[str, Run]:
    """Return the runs that the tables in `folders` tell of, by where each was kept; its files may be gone since.

    Raises ResultsError for tables that are not those of results.
    """
    found: dict[str, Run] = {}
    for folder in folders:
        results = read_results(folder)
        clients: dict[tuple[str, str, int], list[ClientRow]] = {}
        for row in results.clients:
            clients.setdefault((row.setting, row.method, row.seed), []).append(row)
        for row in results.cells:
            held = clients.get((row.setting, row.method, row.seed))
            if held is None:
                raise ResultsError(
                    f"{folder / 'clients.csv'} lacks the clients of {row.folder}: restore or remove the tables there"
                )
            found[row.folder] = Run(row, tuple(held))
    return found


def data_of(runs: Mapping[str, Run]) -> dict[str, str]:
    """Return the digest of the clients' examples of each run, "" where its table does not have it."""
    return {folder: run.cell.data for folder, run in runs.items()}


def collect(cells: Iterable[Cell], store: Path, told: Mapping[str, Run] = MappingProxyType({})) -> Results:
    """Return the rows of cells that are finished in `store`, or else `told` by tables.

    Raises ResultsError for a run whose files are missing or damaged.
    """
    runs = [
        _read(cell, store) if is_finished(store / cell.folder) or cell.folder not in told else told[cell.folder].told_as(cell)
        for cell in cells
    ]
    return Results(tuple(run.cell for run in runs), tuple(row for run in runs for row in run.clients))


def _read(cell: Cell, store: Path) -> Run:
    path = store / cell.folder
    try:
        place = {"setting": cell.setting, "method": cell.method, "seed": str(cell.seed)}
        clients = tuple(csv_row(ClientRow, record | place) for record in _records(path / "clients.csv"))
        made = json.loads((path / MADE).read_text())
        data = read_data(path).get("clients", "")
        return Run(_summarise(cell, read_rounds(path), clients, made, data), clients)
    except (KeyError, ValueError, RunError) as error:
        raise ResultsError(
            f"the run in {path} is damaged ({type(error).__name__}: {error}): delete that folder, and the same command "
            "runs it again"
        ) from error


def _summarise(
    cell: Cell, rounds: Sequence[dict[str, Any]], clients: Sequence[ClientRow], made: Mapping[str, str], data: str
) -> CellRow:
    accuracies = [row.accuracy for row in clients]

    def total(name: str) -> Any:
        return sum(record.get(name, 0) for record in rounds)

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
        candidates=mean_or_none(record.get("candidates") for record in rounds),
        teacher_ratio=mean_or_none(ratio for record in rounds for ratio in record.get("size_ratios", {}).values()),
        folder=cell.folder,
        versions=made["versions"],
        machine=made["machine"],
        date=made["date"],
        data=data,
    )


def write_results(results: Results, folder: Path) -> None:
    """Write the rows as cells.csv and clients.csv; `read_results` gives them back."""
    write(folder / "cells.csv", csv_bytes([asdict(row) for row in results.cells]))
    write(folder / "clients.csv", csv_bytes([asdict(row) for row in results.clients]))


def read_results(folder: Path) -> Results:
    """Return the rows in `folder`. Raises ResultsError if there are none, or other ones."""
    try:
        cells = tuple(csv_row(CellRow, record) for record in _records(folder / "cells.csv"))
        clients = tuple(csv_row(ClientRow, record) for record in _records(folder / "clients.csv"))
    except (KeyError, ValueError) as error:
        raise ResultsError(
            f"the tables in {folder} are not those of results ({type(error).__name__}: {error}): restore or remove them"
        ) from error
    if not cells:
        raise ResultsError(f"{folder / 'cells.csv'} holds no rows: run the study first")
    return Results(cells, clients)


def _records(path: Path) -> list[dict[str, str]]:
    try:
        return csv_records(path)
    except FileNotFoundError as error:
        raise ResultsError(f"{path} is missing: give a folder that holds a study's cells.csv and about.json") from error
