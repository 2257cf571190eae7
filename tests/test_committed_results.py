"""The results in docs/results are made of their rows, and named by their experiments."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pfedhr.disk import write
from pfedhr.experiment_file import parse
from pfedhr.reproduction import redraw
from pfedhr.results import Run, read_results, told_runs
from pfedhr.study import Cell

ROOT = Path(__file__).parents[1]
COMMITTED = sorted(path.parent for path in (ROOT / "docs" / "results").glob("*/*/cells.csv"))
TOLD_IN_SENTENCES = "Clients beside `local`, nine seeds"
TITLED_TABLE = re.compile(r"^\*\*(.*)\*\*\n\n((?:\|.*\n)+)", re.MULTILINE)


@pytest.mark.parametrize("folder", COMMITTED, ids=[f"{folder.parent.name}-{folder.name}" for folder in COMMITTED])
def test_committed_results_are_made_of_their_rows(folder: Path, tmp_path: Path) -> None:
    for name in ("about.json", "cells.csv", "clients.csv"):
        write(tmp_path / name, (folder / name).read_bytes())
    redraw(tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


@pytest.mark.parametrize("folder", COMMITTED, ids=[f"{folder.parent.name}-{folder.name}" for folder in COMMITTED])
def test_committed_runs_are_named_by_their_experiments(folder: Path) -> None:
    named = {row.folder.split("/")[0] for row in read_results(folder).cells}
    experiments = {path.stem: parse(path.read_text(), str(path)) for path in (folder / "experiments").iterdir()}
    assert {Cell("", "", 0, experiment).kind for experiment in experiments.values()} == named == experiments.keys()


def test_committed_tables_tell_the_same_of_a_run() -> None:
    told: dict[tuple[str, str], list[Run]] = {}
    for folder in COMMITTED:
        for kept, run in told_runs([folder]).items():
            told.setdefault((folder.name, kept), []).append(run)
    shared = {kept: runs for kept, runs in told.items() if len(runs) > 1}
    assert shared
    unlike = {
        kept
        for kept, runs in shared.items()
        if len({tuple((row.client, row.accuracy, row.teacher_accuracy) for row in run.clients) for run in runs}) > 1
    }
    assert not unlike


def test_there_are_committed_results_of_three_sets() -> None:
    assert {folder.name for folder in COMMITTED} >= {"mnist", "fashion-mnist", "cifar-10"}


@pytest.mark.parametrize(
    ("script", "page"),
    [("benefit", "docs/method.md"), ("ablation", "docs/method.md"), ("results", "docs/results/README.md")],
)
def test_pages_hold_the_tables_that_scripts_make_of_the_rows(script: str, page: str) -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "scripts" / f"summarise_{script}.py"], capture_output=True, text=True, check=True
    ).stdout
    tables = dict(TITLED_TABLE.findall(made))
    tables.pop(TOLD_IN_SENTENCES, None)
    text = (ROOT / page).read_text()
    assert tables
    assert [title for title, table in tables.items() if table not in text] == []
