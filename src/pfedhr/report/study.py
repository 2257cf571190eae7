"""What a study leaves in its folder: the rows as CSV, the tables made of them, and how they came about.

cells.csv, clients.csv     a row a run; a row a client of a run: all else is made of them
about.json                 the command, versions, machine and seconds
table-SETTING.csv          a row a method, numbers in full
tables.md, tables.tex      the same for readers, with means by structure and the server's seconds by stage
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pfedhr.disk import write
from pfedhr.machine import machine, versions
from pfedhr.report.comparison import comparison_csv, comparison_sheet, method_rows, server_sheet, structure_sheet
from pfedhr.report.sheet import Sheet
from pfedhr.results import Results, ResultsError

NOTES = """\
Accuracy in percent on each client's own test examples, over all clients after the last round; *mean* ± standard deviation over
seeds. *best round* is the highest mean of any round. *worst tenth* and *std* are over clients. *teacher*: the accuracy, on the
client's test examples, of what it was given last to learn from, a teacher or a shared network. *to local* and *to pfedhr*:
difference in points, paired by seed and client, with the 95 % interval of a bootstrap over seeds and clients within them.
*better / worse off* counts pairs of client and seed against learning alone. Megabytes are those of packed parcels, a client a
round; seconds are those of a round, all its clients or the server."""


def write_report(folder: Path, title: str, results: Results, about: Mapping[str, Any], beside: Sequence[Sheet] = ()) -> None:
    """Write all but the rows themselves; `about` says how they came about, `beside` are further tables, which come first."""
    sheets = [*beside, *(sheet for setting in results.settings for sheet in _sheets(results.of(setting), setting))]
    write(folder / "about.json", (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode())
    lines = [f"# {title}", "", *(f"- {name}: {value}" for name, value in about.items()), "", NOTES, ""]
    write(folder / "tables.md", "\n".join([*lines, *(sheet.markdown() for sheet in sheets)]).encode())
    write(folder / "tables.tex", "\n".join(sheet.latex() for sheet in sheets).encode())
    for setting in results.settings:
        name = "-".join(filter(None, ["table", *setting.split("/")]))
        write(folder / f"{name}.csv", comparison_csv(method_rows(results.of(setting))).encode())


def _sheets(results: Results, setting: str) -> list[Sheet]:
    sheets = [comparison_sheet(method_rows(results), setting), structure_sheet(results, setting)]
    stages = server_sheet(results, setting)
    return [*sheets, stages] if stages else sheets


def about_study(command: str, results: Results) -> dict[str, Any]:
    """Return what has to be known of how `results` came about."""
    seconds = sum(row.client_seconds + row.server_seconds for row in results.cells)
    return {
        "command": command,
        "runs": len(results.cells),
        "seconds": f"{seconds:.0f} of one core in all, evaluations and data apart",
        "versions": versions(),
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
    }


def read_about(folder: Path) -> dict[str, Any]:
    """Return what about.json says. Raises ResultsError if there is none."""
    path = folder / "about.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise ResultsError(f"{path} is missing or damaged: give the folder of `pfedhr compare` or `reproduce`") from error
