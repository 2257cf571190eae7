"""Many runs side by side: methods under seeds in settings, each run once and kept, so that methods are compared pair by pair.

What makes the pairs: under one seed every method of a setting has the same examples, initial weights, selections and epochs.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import shutil
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from pfedhr.algorithm import Algorithm
from pfedhr.data import NAMES, PublicOptions
from pfedhr.disk import locked, write
from pfedhr.errors import FAILURE, PfedhrError
from pfedhr.experiment import Experiment
from pfedhr.experiment_file import dump, parse
from pfedhr.inference import repeatable
from pfedhr.launch import prepare, resume, start
from pfedhr.machine import machine, versions
from pfedhr.processes import Processes, WorkerError
from pfedhr.stored import read_data
from pfedhr.watching import Silent

MADE = "made.json"
"""Holds, in a run's folder, the versions and the machine that it was made by, and when."""
MAKERS = "makers.json"
"""Holds, while a run goes on, the versions and the machines that it has been made by so far."""


class StudyError(PfedhrError):
    """Runs that failed; the message names each and why."""


@dataclass(frozen=True)
class Setting:
    """One set of conditions: an experiment, and the methods that run under it by their labels."""

    name: str
    experiment: Experiment
    methods: Mapping[str, Algorithm]


@dataclass(frozen=True)
class Cell:
    """One run: what stands in a setting under a label and a seed."""

    setting: str
    method: str
    seed: int
    experiment: Experiment

    @property
    def kind(self) -> str:
        """A name for the run but for its seed. Equal experiments share it, whatever a setting calls the method."""
        text = dump(replace(without_place(self.experiment), seed=0))
        return f"{self.experiment.algorithm.name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    @property
    def folder(self) -> str:
        """Where the run is kept."""
        return f"{self.kind}/seed{self.seed}"


def without_place(experiment: Experiment) -> Experiment:
    """Return the experiment without the folder of its data, where that holds known sets alone: they are the same anywhere."""
    known = experiment.data.name in NAMES and experiment.public.name in ("", *NAMES)
    return replace(experiment, data=replace(experiment.data, dir="")) if known else experiment


class CellWatcher(Protocol):
    """Told of what becomes of cells."""

    def checked(self, cells: int, done: int) -> None:
        """`done` of the `cells` runs that are to come have been found in order; told before the first as well."""
        ...

    def begin(self, cells: int, done: int) -> None:
        """`done` of `cells` runs are there already."""
        ...

    def end_cell(self, cell: Cell, error: str) -> None:
        """A run has ended, or failed with `error`."""
        ...


def cells_of(settings: Iterable[Setting], seeds: Sequence[int]) -> list[Cell]:
    """Return the cells of all settings, methods and seeds; the seeds in the outermost order, so that each is whole early."""
    settings = list(settings)
    return [
        Cell(setting.name, label, seed, _experiment(setting, algorithm, seed))
        for seed in seeds
        for setting in settings
        for label, algorithm in setting.methods.items()
    ]


def _experiment(setting: Setting, algorithm: Algorithm, seed: int) -> Experiment:
    base = replace(setting.experiment, name=algorithm.name, seed=seed, workers=1, compare_local=False, algorithm=algorithm)
    use = algorithm.public_use(base.public.labelled)
    if use == "none":
        # The share stays: it decides how many examples the clients have.
        return replace(base, public=PublicOptions(base.public.share))
    return base if "labels" in use else replace(base, public=replace(base.public, labelled=False))


def run_cells(
    cells: Iterable[Cell], store: Path, workers: int, watch: CellWatcher, told: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """Run every cell that is not finished in `store`, `workers` at a time; one that was stopped goes on where it stood.

    `told`: the runs that tables tell of, so that they need not be in `store`, by their folders, with the digest of their
    clients' examples, "" = unknown. All others are checked before any training. Returns why runs failed, by folder; the others
    are there. Raises what `prepare` raises, LockedError if another process is at work in `store`, StudyError if clients hold
    other examples in one run than in another that it is paired with.
    """
    unique = {cell.folder: cell for cell in cells}
    ahead = _unfinished(unique, store, told)
    pairs = _Pairs()
    for cell in unique.values():
        pairs.check(cell, read_data(store / cell.folder).get("clients") or told.get(cell.folder))
    for done, cell in enumerate(ahead):
        watch.checked(len(ahead), done)
        pairs.check(cell, prepare(cell.experiment).federation.digests["clients"])
    if ahead:
        watch.checked(len(ahead), len(ahead))
    store.mkdir(parents=True, exist_ok=True)
    with locked(store):
        left = _unfinished(unique, store, told)  # others may have come to their ends while these were checked
        for folder in unique.keys() - {cell.folder for cell in left}:
            _drop_states(store / folder)
        watch.begin(len(unique), len(unique) - len(left))
        failed: dict[str, str] = {}
        for cell, error in zip(left, _run_all(left, store, workers), strict=True):
            watch.end_cell(cell, error)
            failed |= {cell.folder: error} if error else {}
            pairs.check(cell, read_data(store / cell.folder).get("clients"))
    return failed


class _Pairs:
    """Keeps what the private data of runs is, to be the same for all methods under one seed."""

    def __init__(self) -> None:
        self._first: dict[object, tuple[str, str]] = {}

    def check(self, cell: Cell, digest: str | None) -> None:
        """Raise StudyError if the clients of a cell hold other examples, of this `digest` if it is known, than another's."""
        if not digest:
            return
        experiment = without_place(cell.experiment)
        data = experiment.seed, experiment.data, experiment.public.share, experiment.clients.count
        folder, first = self._first.setdefault(data, (cell.folder, digest))
        if digest != first:
            raise StudyError(
                f"data.name = {experiment.data.name!r} gives clients of {cell.folder} other examples than those of {folder} "
                f"under the same seed, so that the two cannot be compared: let load give the same examples each time, and name "
                f"another --out"
            )


def _unfinished(cells: Mapping[str, Cell], store: Path, told: Collection[str]) -> list[Cell]:
    return [cell for cell in cells.values() if not is_there(cell, store, told)]


def is_there(cell: Cell, store: Path, told: Collection[str]) -> bool:
    """Return whether a cell's run is finished in `store`, or is one of those `told`, by its folder."""
    return cell.folder in told or is_finished(store / cell.folder)


def is_finished(path: Path) -> bool:
    """Return whether the run in `path` has come to its end: who made it is written last."""
    return (path / MADE).exists()


def _run_all(cells: Sequence[Cell], store: Path, workers: int) -> Iterator[str]:
    """Yield why each cell failed, or nothing, in order; if a process ends in its midst, for all that are left."""
    tasks = [(dump(cell.experiment), store / cell.folder) for cell in cells]
    if workers == 1 or len(cells) < 2:
        with repeatable():
            for task in tasks:
                yield _run_cell(*task)
        return
    told = 0
    try:
        with Processes(min(workers, len(cells))) as processes:
            for error in processes.run(_run_cell, tasks):
                told += 1
                yield error
    except WorkerError as broken:
        yield from [str(broken)] * (len(cells) - told)


def _run_cell(experiment: str, path: Path) -> str:
    """Run, or go on with, a cell; return why it failed, or nothing. Of a finished run, states and networks are not kept."""
    by = _Makers(path)
    try:
        (path / FAILURE).unlink(missing_ok=True)
        if (path / "experiment.toml").exists():
            write(path / "experiment.toml", experiment.encode())  # the folder of the data may be another by now
            resume(path, by)
        else:
            start(parse(experiment, str(path)), path, by)
        write(path / MADE, json.dumps({**by.all, "date": datetime.date.today().isoformat()}).encode())
        (path / MAKERS).unlink()
        _drop_states(path)
    except PfedhrError as error:
        return str(error)
    except Exception as error:  # of whatever kind it is: other runs shall not fail with this one
        write(path / FAILURE, traceback.format_exc().encode())
        return f"{type(error).__name__}: {error} (all of it in {path / FAILURE})"
    return ""


class _Makers(Silent):
    """Keeps who makes the run in `path`: one that was stopped may be finished by another version, or on another machine."""

    def __init__(self, path: Path) -> None:
        self._file = path / MAKERS

    def begin(self, label: str, rounds: int, done: int) -> None:
        """Add this process to those that have made the run."""
        here = {"versions": versions(), "machine": machine()}
        unknown = dict.fromkeys(here, "unknown")  # of a run that was begun before makers were kept
        before = self.all if self._file.exists() else unknown if done else here
        added = {what: "; ".join(dict.fromkeys([*before[what].split("; "), one])) for what, one in here.items()}
        write(self._file, json.dumps(added).encode())

    @property
    def all(self) -> dict[str, str]:
        """The versions and machines so far."""
        return json.loads(self._file.read_bytes())


def _drop_states(path: Path) -> None:
    for states in ("checkpoint", "models"):
        shutil.rmtree(path / states, ignore_errors=True)
