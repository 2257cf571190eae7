"""A small setting for studies, and who watches one."""

from __future__ import annotations

from dataclasses import replace

from toy_runs import EXPERIMENT

from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.experiment_file import parse
from pfedhr.results import Results
from pfedhr.study import Cell

BASE = replace(parse(EXPERIMENT, "the test"), compare_local=False)
TINY = PFedHR.paper(groups=2, candidates=2, tuning_epochs=1, probe=8)


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.checks: list[tuple[int, int]] = []
        self.began: tuple[int, int] | None = None
        self.ended: dict[str, str] = {}

    def checked(self, cells: int, done: int) -> None:
        assert self.began is None
        self.checks.append((cells, done))

    def begin(self, cells: int, done: int) -> None:
        self.began = (cells, done)

    def end_cell(self, cell: Cell, error: str) -> None:
        self.ended[cell.folder] = error


def timeless(results: Results) -> list[object]:
    rows = [
        {name: value for name, value in vars(row).items() if "seconds" not in name and name != "date"} for row in results.cells
    ]
    return [rows, results.clients]
