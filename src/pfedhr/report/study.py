"""What a study leaves in its folder: the rows as CSV, the tables made of them, and how they came about.

cells.csv, clients.csv     a row a run; a row a client of a run: all else is made of them
about.json                 the command, and what else is known of the study
experiments/KIND.toml      what each kind of run is, in full but for the seed
table-SETTING.csv          a row a method, numbers in full
tables.md, tables.tex      the same for readers, with means by structure and the server's seconds by stage
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pfedhr.disk import csv_bytes, write
from pfedhr.experiment_file import dump
from pfedhr.report.comparison import comparison_records, comparison_sheet, method_rows, server_sheet, structure_sheet
from pfedhr.report.sheet import Sheet
from pfedhr.results import Results, ResultsError, Run, collect, write_results
from pfedhr.study import Cell, is_finished, is_there

NOTES = """\
Accuracy in percent on each client's own test examples, over all clients after the last round; *mean* ± standard deviation over
seeds. *best round* is the highest mean of any round. *worst tenth* and *std* are over clients. *teacher*: the accuracy, on the
client's test examples, of what it was given last to learn from, a teacher or a shared network; the mean is over those clients
alone that were given any. *to local* and *to pfedhr*: difference in points, paired by seed and client, with the 95 % interval
of a bootstrap over seeds and clients within them; with few seeds ({seeds} here) it is too narrow where seeds differ as much as
clients do. *better / worse off* counts pairs of client and seed against learning alone. Megabytes are those of packed parcels,
a client a round; seconds are those of a round, all its clients or the server."""


def write_report(folder: Path, title: str, results: Results, about: Mapping[str, Any], beside: Sequence[Sheet] = ()) -> None:
    """Write all but the rows themselves; `about` says how they came about, `beside` are further tables, which come first."""
    write(folder / "about.json", (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode())
    sheets = list(beside)
    for setting in results.settings:
        held = results.of(setting)
        rows = method_rows(held)
        name = "-".join(filter(None, ["table", *setting.split("/")]))
        write(folder / f"{name}.csv", csv_bytes(comparison_records(rows)))
        sheets += [comparison_sheet(rows, setting).filled(), structure_sheet(held, setting)]
        stages = server_sheet(held, setting)
        sheets += [stages] if stages.rows else []
    told = [f"- {name}: {value}" for name, value in {**about, **_made(results)}.items()]
    seeds = len({row.seed for row in results.cells})
    notes = NOTES.format(seeds=seeds)
    text = "\n".join([f"# {title}", "", *told, "", notes, "", *(sheet.markdown() for sheet in sheets)])
    write(folder / "tables.md", text.encode())
    write(folder / "tables.tex", "\n".join(sheet.latex() for sheet in sheets).encode())


def _made(results: Results) -> dict[str, str]:
    """Return how the runs were made: how many, how long, by which versions, on which machines, when."""
    runs = {row.folder: row for row in results.cells}.values()  # a run may serve several settings
    seconds = sum(row.client_seconds + row.server_seconds for row in runs)
    days = sorted({row.date for row in runs})
    return {
        "runs": f"{len(runs)}, {seconds / 60:.0f} minutes of one core together, evaluations and data apart",
        "versions": _each(row.versions for row in runs),
        "machine": _each(row.machine for row in runs),
        "date": days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}",
    }


def _each(told: Iterable[str]) -> str:
    """Return every version or machine once: a run that was stopped may have several."""
    return "; ".join(sorted({one for several in told for one in several.split("; ")}))


def check_kept(cells: Iterable[Cell], store: Path, folder: Path, tables: Mapping[Path, Collection[str]]) -> None:
    """Raise ResultsError if the table in `folder` tells of runs that are not among `cells` and whose files are gone.

    `tables`: the runs that each folder's table tells of. A table of these cells would take the place of all that is known of
    such runs, unless another tells of them.
    """
    elsewhere = {run for place, told in tables.items() if place != folder for run in told}
    left_out = set(tables.get(folder, ())) - {cell.folder for cell in cells} - elsewhere
    if lost := [one for one in left_out if not is_finished(store / one)]:
        raise ResultsError(
            f"{folder} tells of {len(lost)} runs whose files are gone and that this command leaves out, {min(lost)} for one: "
            f"name another --out, or ask for these as well; to give them up, move {folder / 'cells.csv'} away"
        )


def write_rows(cells: Sequence[Cell], store: Path, folder: Path, told: Mapping[str, Run]) -> dict[str, str] | None:
    """Write the rows and experiments of the cells finished in `store` or `told`; return None, and write nothing, if none is.

    Otherwise return what about.json has to say of those that are missing.
    """
    done = [cell for cell in cells if is_there(cell, store, told)]
    if not done:
        return None
    write_results(collect(done, store, told), folder)
    _write_experiments(folder, done)
    runs, there = ({cell.folder for cell in some} for some in (cells, done))  # a run may serve several settings
    missing = len(runs) - len(there)
    return {"missing": f"{missing} of {len(runs)} runs, which failed or were not begun"} if missing else {}


def _write_experiments(folder: Path, cells: Iterable[Cell]) -> None:
    """Write what each kind of run is, as an experiment of seed 0 that `pfedhr run` takes, in place of any others."""
    kinds = {cell.kind: cell.experiment for cell in cells}
    for kind, experiment in kinds.items():
        data = replace(experiment.data, dir="")  # where it lies is the reader's to say
        write(folder / "experiments" / f"{kind}.toml", dump(replace(experiment, seed=0, data=data)).encode())
    for path in (folder / "experiments").glob("*.toml"):
        if path.stem not in kinds:
            path.unlink()


def read_about(folder: Path) -> dict[str, Any]:
    """Return what about.json says. Raises ResultsError if there is none."""
    path = folder / "about.json"
    if not path.exists() and (written := sorted(folder.glob("*/*/about.json"))):
        raise ResultsError(f"{folder} holds the tables of several studies: give folders such as {written[0].parent}")
    if not path.exists() and (folder / "cells").is_dir():
        raise ResultsError(
            f"{folder} holds runs and no tables yet, for the study there has not ended: give the same command again, and it "
            "goes on; with fewer --seeds it ends sooner"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise ResultsError(
            f"{path} is missing or damaged: give a folder that holds a study's cells.csv and about.json"
        ) from error
