"""A run on a terminal: progress while it goes, and the table of clients at its end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from pfedhr.models import ModelSpec, build, check_network
from pfedhr.reassembly import decompose
from pfedhr.run import ClientOutcome
from pfedhr.study import Cell

# Narrow enough for the table of clients to fit 80 columns.
LAYOUT: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False, "padding": (0, 1, 0, 0), "title_justify": "left"}

PATIENCE = 10.0
"""Seconds that nothing is said for while runs are checked, where the console is no terminal."""
NARROWEST = 12
"""Characters that are left to a column that folds."""


def table_console() -> Console:
    """Return the console that tables are printed on: where nobody reads along, nothing is gained by breaking lines."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def show(console: Console, table: Table) -> None:
    """Print a table, beyond the console's edge rather than without what there is no room for."""
    folding = [column for column in table.columns if column.overflow == "fold"]
    for column in folding:
        column.max_width = NARROWEST
    needed = console.measure(table, options=console.options.update(max_width=10_000)).maximum
    if needed <= console.width:
        for column in folding:
            column.max_width = None
    else:
        table.width = needed
    console.print(table, crop=False)


def _fold(table: Table, heading: str) -> Table:
    """Return the table, now such that only the column of this heading gives way where the console is too narrow."""
    for column in table.columns:
        widest = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
        if column.header == heading:
            column.overflow, column.min_width = "fold", min(widest, NARROWEST)
        else:
            column.no_wrap, column.min_width = True, widest
    return table


class ProgressDisplay:
    """A bar a run with rounds, clients, accuracy so far and time left; silent where the console is no terminal."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rounds  {task.fields[note]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ProgressDisplay:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def begin(self, label: str, rounds: int, done: int) -> None:
        """Show the bar of a run of which `done` rounds are behind."""
        self._tasks[label] = self._progress.add_task(label, total=rounds, completed=done, note="")

    def end_round(self, label: str, record: Mapping[str, Any]) -> None:
        """Move the bar on by one round."""
        accuracy = record["accuracy"]
        mean = f"accuracy {accuracy['mean']:.3f}" if accuracy else "not evaluated yet"
        note = f"{len(record['active'])} clients  {mean}"
        self._progress.update(self._tasks[label], advance=1, note=note)


class CellsDisplay:
    """A bar over the runs of a study; where the console is no terminal, a line a run."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("runs  {task.description}"), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._done = self._total = 0
        self._checks: TaskID | None = None
        self._begun, self._told = 0.0, False
        self._task: TaskID | None = None

    def __enter__(self) -> CellsDisplay:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def checked(self, cells: int, done: int) -> None:
        """Show a bar of the `cells` runs to come, of which `done` have been found in order; a line in all, if it takes long."""
        if self._checks is None:
            self._checks, self._begun = self._progress.add_task("checked before any begins", total=cells), time.monotonic()
        self._progress.update(self._checks, completed=done)
        if not self._console.is_terminal and not self._told and time.monotonic() - self._begun >= PATIENCE:
            self._told = True
            self._console.print(f"checked {done} of {cells} runs; none begins before all are", soft_wrap=True)

    def begin(self, cells: int, done: int) -> None:
        """Show the bar of `cells` runs of which `done` are behind."""
        if self._checks is not None:
            self._progress.remove_task(self._checks)
        self._done, self._total = done, cells
        self._task = self._progress.add_task("", total=cells, completed=done)

    def end_cell(self, cell: Cell, error: str) -> None:
        """Move the bar on by one run."""
        self._done += 1
        if self._task is not None:
            self._progress.update(self._task, advance=1, description=cell.folder)
        if not self._console.is_terminal:
            self._console.print(f"{self._done}/{self._total} {cell.folder}", soft_wrap=True)
        if error:
            self._console.print(f"{cell.folder}: {error}", soft_wrap=True, markup=False)


def client_table(outcomes: Sequence[ClientOutcome], method: str) -> Table:
    """Return the table of a run: a row a client; below, the mean and the worst of every column, whichever client has it."""
    measures = _measures(outcomes, method)
    table = Table(title=f"{method}: test accuracy after the last round", **LAYOUT)
    for heading in ("client", "model", "classes"):
        table.add_column(heading)
    for heading in ("train", "test", *(measure.heading for measure in measures)):
        table.add_column(heading, justify="right")
    for one in outcomes:
        classes = " ".join(map(str, one.classes)) if len(one.classes) <= 4 else f"{len(one.classes)} of them"
        cells = [one.client, one.model, classes, str(one.train), str(one.test)]
        table.add_row(*cells, *(measure.told(measure.of(one)) for measure in measures))
    table.add_section()
    for name, over in (("mean", statistics.fmean), ("worst", min)):
        cells: list[str] = []
        for measure in measures:
            values = [value for one in outcomes if (value := measure.of(one)) is not None]
            cells.append(measure.told(over(values) if values and measure.heading != "epsilon" else None))
        table.add_row(name, "", "", "", "", *cells)
    return _fold(table, "model")


@dataclass(frozen=True)
class _Measure:
    """A column of numbers, None where a client has none."""

    heading: str
    of: Callable[[ClientOutcome], float | None]
    form: str = ".3f"

    def told(self, value: float | None) -> str:
        """Return a number as the column shows it."""
        return "" if value is None else format(value, self.form)


def _measures(outcomes: Sequence[ClientOutcome], method: str) -> list[_Measure]:
    """Return the columns of what was measured."""
    measures = [_Measure(method, lambda one: one.accuracy)]
    if all(one.alone_accuracy is not None for one in outcomes):
        measures += [_Measure("alone", lambda one: one.alone_accuracy), _Measure("gain", _gain, "+.3f")]
    measures.append(_Measure("teacher", lambda one: one.teacher_accuracy))
    if any(one.epsilon is not None for one in outcomes):
        measures.append(_Measure("epsilon", lambda one: one.epsilon, ".2f"))
    return measures


def _gain(one: ClientOutcome) -> float | None:
    return None if one.alone_accuracy is None else one.accuracy - one.alone_accuracy


def better_off(outcomes: Sequence[ClientOutcome]) -> str:
    """Return in a sentence how many clients are better off than alone, as well off, and worse off; empty if not compared."""
    gains = [gain for one in outcomes if (gain := _gain(one)) is not None]
    if not gains:
        return ""
    better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    return f"{better} of {len(gains)} clients better off than alone, {len(gains) - better - worse} the same, {worse} worse off"


NAMES = "names in the state_dict"


def block_table(spec: ModelSpec, dtype: torch.dtype) -> Table:
    """Return the table of a network's blocks on inputs of type `dtype`. Raises ModelError or DecompositionError."""
    example = torch.zeros(2, *spec.shape, dtype=dtype)
    check_network(spec, example)
    blocks = decompose(build(spec, 0), example)
    total = sum(block.parameters for block in blocks)
    title = f"{spec.factory} on inputs of shape {spec.shape}: {len(blocks)} blocks, {total:,} parameters"
    table = Table(title=title, **LAYOUT)
    for heading in ("block", "type", "in", "out", "parameters"):
        table.add_column(heading, justify="right" if heading == "parameters" else "left")
    table.add_column(NAMES)
    for number, block in enumerate(blocks, start=1):
        shapes = (" x ".join(map(str, shape)) for shape in (block.in_shape, block.out_shape))
        table.add_row(str(number), block.op, *shapes, f"{block.parameters:,}", " ".join(block.names))
    return _fold(table, NAMES)
