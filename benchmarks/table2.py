"""How long Table 2 takes at the `small` scale on one data set: the cells of five seeds, two at a time. Takes as long itself."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.timing import Measurement, Target
from pfedhr.reproduction import SCALES, TARGETS
from pfedhr.reproduction.targets import settings_of
from pfedhr.study import Cell, cells_of, run_cells


class Silent:
    """Watches a study, and says nothing."""

    def checked(self, cells: int, done: int) -> None:
        """Do nothing."""

    def begin(self, cells: int, done: int) -> None:
        """Do nothing."""

    def end_cell(self, cell: Cell, error: str) -> None:
        """Do nothing."""


def measure() -> Iterator[Measurement]:
    """Yield the minutes of five seeds."""
    cells = cells_of(settings_of(TARGETS["table2"], SCALES["small"], "fashion-mini", ""), range(5))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run_cells(cells, Path(folder), 2, Silent())
        minutes = (time.perf_counter() - start) / 60
    yield Measurement("table2 small", [minutes], "min", Target(60, at_least=False), "five seeds")
