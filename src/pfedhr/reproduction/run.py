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
from pfedhr.report.figures import DrawnBlock, draw_settings, draw_teachers
from pfedhr.report.study import about_study, read_about, write_report
from pfedhr.reproduction.beside import beside_sheet
from pfedhr.reproduction.published import Place, published
from pfedhr.reproduction.scales import Scale
from pfedhr.reproduction.targets import TARGETS, Target, settings_of
from pfedhr.results import Results, collect, read_results, write_results
from pfedhr.run import read_rounds
from pfedhr.study import Cell, Watcher, cells_of, run_cells

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
    watch: Watcher,
) -> list[Path]:
    """Run a target on every one of `sets`, whose files are in `directory`; return the folders written, one a data set.

    Runs are kept in `folder`/cells and shared by all targets. Raises what `run_cells` raises, before any training where it can
    be known.
    """
    cells = {data: cells_of(settings_of(target, scale, data, directory), seeds) for data in sets}
    store = folder / "cells"
    run_cells([cell for each in cells.values() for cell in each], store, workers, watch)
    written: list[Path] = []
    for data, each in cells.items():
        place = folder / f"{target.name}-{scale.name}" / data
        results = collect(each, store)
        write_results(results, place)
        if target.name == "figure7":
            write(place / TEACHERS, json.dumps(_teachers(each[0], store), indent=1).encode())
        command = f"pfedhr reproduce {target.name} --scale {scale.name} --datasets {data} --seeds {','.join(map(str, seeds))}"
        about = about_study(f"{command} --data.dir DIR --workers {workers}", results)
        redraw(place, {"target": target.name, "scale": scale.name, "data": data, "cut": scale.cut, **about})
        written.append(place)
    return written


def redraw(folder: Path, about: Mapping[str, Any] | None = None) -> None:
    """Write the tables and figures of a study again from the rows in `folder`. Raises ResultsError if there are none."""
    told = read_about(folder) if about is None else about
    results = read_results(folder)
    target = TARGETS.get(told.get("target", ""))
    if target is None:
        write_report(folder, told.get("title", folder.name), results, told)
        return
    title = f"{target.name}: {target.title}, {told['data']}"
    write_report(folder, title, results, told, [beside_sheet(target, results, told["data"])])
    if target.axis:
        draw_settings(results, target.axis, title, _published(target, results, told["data"]), folder / "figure.svg")
    if (folder / TEACHERS).exists():
        drawn = json.loads((folder / TEACHERS).read_text())
        rounds = {int(round): [DrawnBlock(**block) for block in blocks] for round, blocks in drawn["rounds"].items()}
        draw_teachers(rounds, drawn["client"], title, folder / "figure.svg")


def _published(target: Target, results: Results, data: str) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for setting in results.settings:
        partition, public, value = setting.split("/")
        for method in results.methods:
            place = Place(target.name, public, method, data, partition, value)
            if place in published():
                found[setting, method] = published()[place]
    return found


def _teachers(cell: Cell, store: Path) -> dict[str, Any]:
    """Return the first and the last teacher of the client that had most, with what is drawn of their blocks."""
    had: dict[str, dict[int, str]] = {}
    for record in read_rounds(store / cell.folder):
        for client, recipe in record.get("teachers", {}).items():
            had.setdefault(client, {})[record["round"]] = recipe
    client = max(sorted(had), key=lambda client: len(had[client]))
    networks = prepare(cell.experiment).networks

    def drawn(block: str) -> dict[str, Any]:
        owner, _, index = block.rpartition(".")
        spec = networks[owner]
        kinds = [one.op for one in decompose(build(spec, 0), torch.zeros(2, *spec.shape))]
        return asdict(DrawnBlock(owner, spec.factory, int(index), kinds[int(index) - 1]))

    ends = (min(had[client]), max(had[client]))
    return {"client": client, "rounds": {round: [drawn(block) for block in had[client][round].split()] for round in ends}}
