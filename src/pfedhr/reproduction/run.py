"""Running a target on data sets, and writing what came of it; and writing it again from its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pfedhr.disk import write
from pfedhr.launch import prepare
from pfedhr.models import build
from pfedhr.reassembly import decompose
from pfedhr.report.study import check_kept, read_about, write_report, write_rows
from pfedhr.reproduction.beside import beside_sheet
from pfedhr.reproduction.figures import DrawnBlock, draw_settings, draw_teachers, need_matplotlib
from pfedhr.reproduction.scales import Scale
from pfedhr.reproduction.targets import TARGETS, Target, settings_of, with_methods
from pfedhr.results import data_of, read_results, told_runs
from pfedhr.run import read_rounds
from pfedhr.study import Cell, CellWatcher, cells_of, is_finished, run_cells

TEACHERS = "teachers.json"
"""Holds the teachers of figure 7 in its folder."""


def reproduce(
    target: Target,
    scale: Scale,
    sets: Sequence[str],
    directory: str,
    seeds: Sequence[int],
    folder: Path,
    workers: int,
    watch: CellWatcher,
    methods: Sequence[str] = (),
) -> tuple[list[Path], dict[str, str]]:
    """Run a target, or those of its `methods` alone, on every one of `sets`, whose files are in `directory`.

    Returns the folders written, one a data set, and why runs failed, by their folders: tables are made of the others. Runs are
    kept in `folder`/cells and shared by all targets; those that tables in `folder` tell of are not run again, even where their
    files are gone. Raises what `with_methods` and `run_cells` raise, before any training, and ResultsError for a table that is
    damaged, or would lose runs.
    """
    if target.axis or target.name == "figure7":
        need_matplotlib()
    settings = {data: with_methods(settings_of(target, scale, data, directory), methods) for data in sets}
    cells = {data: cells_of(each, seeds) for data, each in settings.items()}
    store = folder / "cells"
    tables = {rows.parent: told_runs([rows.parent]) for rows in sorted(folder.glob("*/*/cells.csv"))}
    places = {data: folder / f"{target.name}-{scale.name}" / data for data in sets}
    for data, place in places.items():
        check_kept(cells[data], store, place, tables)
    told = {run: rows for table in tables.values() for run, rows in table.items()}
    failed = run_cells([cell for each in cells.values() for cell in each], store, workers, watch, data_of(told))
    command = f"pfedhr reproduce {target.name} --scale {scale.name} --seeds {','.join(map(str, seeds))} --workers {workers}"
    command += f" --methods {','.join(methods)}" if methods else ""
    written: list[Path] = []
    for data, each in cells.items():
        place = places[data]
        missing = write_rows(each, store, place, told | tables.get(place, {}))  # what a table tells of a run it goes on telling
        if missing is None:
            continue
        about = {"target": target.name, "scale": scale.name, "data": data, "cut": scale.cut}
        about |= {"command": f"{command} --datasets {data} --data.dir DIR"}
        about |= {"note": target.note} if target.note else {}
        about |= missing
        drawn = next((cell for cell in each if cell.method == "pfedhr" and is_finished(store / cell.folder)), None)
        if target.name == "figure7" and drawn is not None:
            write(place / TEACHERS, json.dumps(_teachers(drawn, store), indent=1).encode())
        redraw(place, about)
        written.append(place)
    return written, failed


def redraw(folder: Path, about: Mapping[str, Any] | None = None) -> None:
    """Write the tables and figures of a study again from the rows in `folder`. Raises ResultsError if there are none."""
    told = read_about(folder) if about is None else about
    results = read_results(folder)
    target = TARGETS.get(told.get("target", ""))
    if target is None:
        write_report(folder, told.get("title", folder.name), results, told)
        return
    title = f"{target.name}: {target.title}, {told['data']}"
    sheets = [beside_sheet(target, told["scale"], results, told["data"])]
    write_report(folder, title, results, told, sheets)
    if target.axis:
        draw_settings(target, results, told["data"], folder / "figure.svg")
    if (folder / TEACHERS).exists():
        drawn = json.loads((folder / TEACHERS).read_text())
        rounds = {int(number): [DrawnBlock(**block) for block in blocks] for number, blocks in drawn["rounds"].items()}
        if rounds:
            draw_teachers(rounds, drawn["client"], title, folder / "figure.svg")


def _teachers(cell: Cell, store: Path) -> dict[str, Any]:
    """Return the first and the last teacher of the client that had most, with what is drawn of their blocks; or none."""
    had: dict[str, dict[int, str]] = {}
    for record in read_rounds(store / cell.folder):
        for client, recipe in record.get("teachers", {}).items():
            had.setdefault(client, {})[record["round"]] = recipe
    if not had:
        return {"client": "", "rounds": {}}
    client = max(sorted(had), key=lambda client: len(had[client]))
    networks = prepare(cell.experiment).networks
    kinds = {
        spec: [block.op for block in decompose(build(spec, 0), torch.zeros(2, *spec.shape))] for spec in set(networks.values())
    }

    def drawn(block: str) -> dict[str, Any]:
        owner, _, index = block.rpartition(".")
        spec = networks[owner]
        return asdict(DrawnBlock(owner, spec.factory, int(index), kinds[spec][int(index) - 1]))

    ends = (min(had[client]), max(had[client]))
    return {"client": client, "rounds": {number: [drawn(block) for block in had[client][number].split()] for number in ends}}
