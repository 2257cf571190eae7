"""Studies: methods meet the same conditions, every run is done once, and one that was stopped goes on."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import quarters, shuffled
from toy_studies import BASE, TINY, Told, timeless

from pfedhr.algorithms.fedmd import FedMD
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.private import initial_weights
from pfedhr.data import Dataset
from pfedhr.disk import LockedError, locked
from pfedhr.experiment_file import dump
from pfedhr.launch import prepare, start
from pfedhr.machine import machine, versions
from pfedhr.parcel import pack
from pfedhr.results import Results, ResultsError, collect, data_of, read_results, told_runs, write_results
from pfedhr.run import read_rounds
from pfedhr.study import Cell, Setting, StudyError, cells_of, is_finished, run_cells
from pfedhr.watching import Silent


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return cells_of([Setting("toy", BASE, {"local": Local(), "pfedhr": TINY})], [0, 1])


@pytest.fixture(scope="module")
def store(cells: list[Cell], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study")
    run_cells(cells, path, 1, Told())
    return path


def test_all_methods_of_a_seed_meet_the_same_conditions(cells: list[Cell], store: Path) -> None:
    for seed in (0, 1):
        local, pfedhr = (cell for cell in cells if cell.seed == seed)
        first, second = prepare(local.experiment), prepare(pfedhr.experiment)
        assert pack(first.federation) == pack(second.federation)
        assert first.training == second.training
        for client in first.networks:
            weights = [initial_weights(cohort.client_view(client, 0)) for cohort in (first, second)]
            assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        selections = [[record["active"] for record in read_rounds(store / cell.folder)] for cell in (local, pfedhr)]
        assert selections[0] == selections[1]
        # Nobody has a teacher in the first round yet, so the active clients learn the same.
        losses = [read_rounds(store / cell.folder)[0]["losses"] for cell in (local, pfedhr)]
        assert losses[0] == losses[1]


def test_a_finished_cell_is_never_run_twice(cells: list[Cell], store: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    told = Told()
    run_cells(cells, store, 1, told)
    assert (told.checks, told.began, told.ended) == ([], (4, 4), {})
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()} == before


def test_a_run_that_tables_tell_of_needs_no_files(cells: list[Cell], store: Path, tmp_path: Path) -> None:
    write_results(collect(cells[:2], store), tmp_path / "tables")
    runs, told = told_runs([tmp_path / "tables"]), Told()
    assert runs.keys() == {cell.folder for cell in cells[:2]}
    assert run_cells(cells, tmp_path / "store", 1, told, data_of(runs)) == {}
    assert told.began == (4, 2)
    assert told.ended == {cell.folder: "" for cell in cells[2:]}
    assert timeless(collect(cells, tmp_path / "store", runs)) == timeless(collect(cells, store))
    other = [replace(cell, setting="another") for cell in cells]  # a run may serve several settings
    assert timeless(collect(other, tmp_path / "store", runs)) == timeless(collect(other, store))
    with pytest.raises(ResultsError, match=r"clients\.csv is missing"):
        collect(cells, tmp_path / "store")
    table = tmp_path / "tables" / "clients.csv"
    table.write_text("".join(line for line in table.read_text().splitlines(True) if ",pfedhr," not in line))
    with pytest.raises(ResultsError, match=r"clients\.csv lacks the clients of pfedhr-\w+/seed0"):
        told_runs([tmp_path / "tables"])


def test_a_run_that_ended_before_it_said_who_made_it_goes_on_and_says_so(
    cells: list[Cell], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(makers: object) -> dict[str, str]:
        raise RuntimeError("killed")

    with monkeypatch.context() as context:
        context.setattr("pfedhr.study._Makers.all", property(killed))
        assert "killed" in run_cells(cells[:1], tmp_path, 1, Told())[cells[0].folder]
    assert (tmp_path / cells[0].folder / "clients.csv").exists()
    assert not is_finished(tmp_path / cells[0].folder)
    assert run_cells(cells[:1], tmp_path, 1, Told()) == {}
    assert timeless(collect(cells[:1], tmp_path)) == timeless(collect(cells[:1], store))


def test_of_a_finished_cell_states_are_not_kept(cells: list[Cell], store: Path) -> None:
    for cell in cells:
        kept = {"experiment.toml", "rounds.jsonl", "clients.csv", "made.json", "data.sha256"}
        assert {path.name for path in (store / cell.folder).iterdir()} == kept
    left = store / cells[0].folder / "checkpoint"  # as a kill between the last two steps leaves it
    left.mkdir()
    run_cells(cells, store, 1, Told())
    assert not left.exists()


def test_two_at_a_time_give_the_same_rows(cells: list[Cell], store: Path, tmp_path: Path) -> None:
    told = Told()
    assert run_cells(cells, tmp_path, 2, told) == {}
    assert told.checks == [(4, done) for done in range(5)]
    assert told.ended == {cell.folder: "" for cell in cells}
    assert timeless(collect(cells, tmp_path)) == timeless(collect(cells, store))


class Stopped(Exception):
    pass


class StopAfterOneRound(Silent):
    def end_round(self, label: str, record: Mapping[str, Any]) -> None:
        raise Stopped


def test_a_cell_that_was_stopped_goes_on(cells: list[Cell], store: Path, tmp_path: Path) -> None:
    cell = next(cell for cell in cells if cell.method == "pfedhr")
    with pytest.raises(Stopped):
        start(cell.experiment, tmp_path / cell.folder, StopAfterOneRound())
    assert not is_finished(tmp_path / cell.folder)
    assert len(read_rounds(tmp_path / cell.folder)) == 1
    run_cells(cells, tmp_path, 1, Told())
    found = collect(cells, tmp_path)
    (stopped,) = [row for row in found.cells if row.folder == cell.folder]
    assert (stopped.versions, stopped.machine) == (f"unknown; {versions()}", f"unknown; {machine()}")  # begun by no study
    known = tuple(replace(row, versions=versions(), machine=machine()) for row in found.cells)
    assert timeless(Results(known, found.clients)) == timeless(collect(cells, store))


def faulty(directory: str) -> Dataset:
    """A data set that is there when it is checked, and gone when it is wanted: as a full disk or a lost folder is."""
    marker = Path(directory) / "checked"
    if marker.exists():
        raise OSError("no space left")
    marker.touch()
    return quarters(directory)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_fails_is_named_and_stops_no_other(cells: list[Cell], store: Path, tmp_path: Path, workers: int) -> None:
    path, folder = tmp_path / "store", tmp_path / "data"
    folder.mkdir()
    shutil.copytree(store, path)
    broken = replace(TINY, distil_weight=1e39)
    lost = replace(BASE, data=replace(BASE.data, name=f"{__name__}:faulty", dir=str(folder)))
    more = [
        *cells_of([Setting("toy", BASE, {"pfedhr-broken": broken})], [0]),
        *cells_of([Setting("lost", lost, {"local": Local()})], [0]),
        *cells_of([Setting("toy", BASE, {"fedmd": FedMD()})], [0]),
    ]
    told = Told()
    failed = run_cells([*more, *cells], path, workers, told)
    assert told.began == (7, 4)
    assert list(failed) == [cell.folder for cell in more[:2]]
    assert "the loss is" in failed[more[0].folder]
    assert failed[more[1].folder].startswith("OSError: no space left")
    assert "in faulty" in (path / more[1].folder / "failure.txt").read_text()
    assert list(told.ended.values()) == [*failed.values(), ""]
    assert is_finished(path / more[2].folder)
    assert len(collect([more[2], *cells], path).cells) == 5


def test_a_study_killed_in_its_midst_goes_on(cells: list[Cell], store: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "toy.toml", tmp_path / "out"
    file.write_text(dump(replace(BASE, algorithm=TINY)))
    words = ["compare", str(file), "--algorithms", "pfedhr", "--seeds", "0,1", "--workers", "2", "--out", str(out)]
    command = [sys.executable, "-m", "pfedhr", *words]
    # The data set is a function of the tests.
    process = subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(out.rglob("clients.csv")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 1 <= len(list(out.rglob("clients.csv"))) < 4
    subprocess.run(command, cwd=Path(__file__).parent, check=True, capture_output=True)
    found = read_results(out)
    assert sorted(found.clients, key=str) == sorted(
        (replace(row, setting="toy") for row in collect(cells, store).clients), key=str
    )


def test_only_one_process_runs_a_store(cells: list[Cell], store: Path) -> None:
    with locked(store), pytest.raises(LockedError, match="another process"):
        run_cells(cells, store, 1, Told())


def test_a_cell_is_an_experiment_that_can_be_run_alone(cells: list[Cell], store: Path) -> None:
    for cell in cells:
        assert (store / cell.folder / "experiment.toml").read_text() == dump(cell.experiment)
        assert (cell.experiment.workers, cell.experiment.compare_local) == (1, False)


def test_methods_whose_clients_would_hold_other_examples_are_not_compared(
    cells: list[Cell], store: Path, tmp_path: Path
) -> None:
    base = replace(BASE, data=replace(BASE.data, name=f"{shuffled.__module__}:shuffled"))
    apart = cells_of([Setting("toy", base, {"local": Local(), "pfedhr": TINY})], [0])
    with pytest.raises(StudyError, match=r"shuffled' gives clients of pfedhr-.* other examples than those of local-"):
        run_cells(apart, tmp_path / "new", 1, Told())
    shutil.copytree(store, tmp_path / "old")
    kept = tmp_path / "old" / cells[0].folder / "data.sha256"
    kept.write_text("0" + kept.read_text()[1:])
    with pytest.raises(StudyError, match="other examples than those of local-"):
        run_cells(cells, tmp_path / "old", 1, Told())
    kept.unlink()  # as in runs of before
    assert run_cells(cells, tmp_path / "old", 1, Told()) == {}


def test_runs_that_only_tables_tell_of_hold_their_pairs_to_their_examples(
    cells: list[Cell], store: Path, tmp_path: Path
) -> None:
    write_results(collect(cells[:1], store), tmp_path)
    runs = data_of(told_runs([tmp_path]))
    assert runs == {cells[0].folder: prepare(cells[0].experiment).federation.digests["clients"]}
    with pytest.raises(StudyError, match="other examples than those of local-"):
        run_cells(cells, tmp_path / "new", 1, Told(), {cells[0].folder: "0" * 64})
    assert not (tmp_path / "new").exists()
    table = tmp_path / "cells.csv"
    rows = [line.rpartition(",")[0] for line in table.read_text().splitlines()]
    table.write_text("\n".join(rows) + "\n")  # of before the digest was kept
    assert data_of(told_runs([tmp_path])) == {cells[0].folder: ""}
    assert run_cells(cells[:2], tmp_path / "new", 1, Told(), {cells[0].folder: ""}) == {}


def test_a_run_says_of_all_who_made_it(cells: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was stopped may be finished by another version."""
    for version in ("one", "two", "one"):
        with monkeypatch.context() as context:
            context.setattr("pfedhr.study.versions", lambda version=version: version)
            context.setattr("pfedhr.study._Makers.end_round", lambda *told: 1 / 0)
            assert "ZeroDivisionError" in run_cells(cells[:1], tmp_path, 1, Told())[cells[0].folder]
    assert (tmp_path / cells[0].folder / "makers.json").exists()
    monkeypatch.setattr("pfedhr.study.versions", lambda: "three")
    assert run_cells(cells[:1], tmp_path, 1, Told()) == {}
    assert collect(cells[:1], tmp_path).cells[0].versions == "one; two; three"
