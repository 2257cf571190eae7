"""Print the tables of docs/results/README.md from the rows of table2 and figure1 there: python scripts/summarise_results.py"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pfedhr.report.comparison import REFERENCE, MethodRow, mean_and_spread, method_rows, points
from pfedhr.report.sheet import Sheet
from pfedhr.results import read_results

RESULTS = Path(__file__).parents[1] / "docs" / "results"
FOLDER = RESULTS / "table2-small"
SETS = ("mnist", "fashion-mnist", "cifar-10")
PUBLIC = ("labelled", "unlabelled")
COLUMNS = [(name, partition) for name in SETS if (FOLDER / name).is_dir() for partition in ("iid", "classes")]
HEADINGS = [f"{name}, {'IID' if partition == 'iid' else 'two classes'}" for name, partition in COLUMNS]


def rows_of(public: str) -> dict[str, list[MethodRow]]:
    """Return the rows of every method, a column each."""
    found: dict[str, list[MethodRow]] = {}
    for name, partition in COLUMNS:
        for row in method_rows(read_results(FOLDER / name).of(f"{partition}/{public}/")):
            found.setdefault(row.method, []).append(row)
    return found


def accuracy_sheet(public: str) -> Sheet:
    """Return the mean accuracies, the highest of each column in bold."""
    rows = rows_of(public)
    best = [max(column, key=lambda row: row.mean) for column in zip(*rows.values(), strict=True)]

    def cell(row: MethodRow) -> str:
        text = mean_and_spread(row.mean, row.spread)
        return f"**{text}**" if row in best else text

    return Sheet(f"Public data {public}", ["method", *HEADINGS], [[f"`{name}`", *map(cell, row)] for name, row in rows.items()])


def pfedhr_sheet(title: str, cell: Callable[[MethodRow], str]) -> Sheet:
    """Return what `cell` says of pFedHR, a row a kind of public data."""
    rows = [[public, *map(cell, rows_of(public)[REFERENCE])] for public in PUBLIC]
    return Sheet(title, ["public data", *HEADINGS], rows)


def other_sheet(public: str) -> Sheet:
    """Return each method's mean with public data of another set, and in brackets the difference to that of the clients' own."""
    rows: dict[str, list[str]] = {}
    for name, partition in COLUMNS:
        results = read_results(RESULTS / "figure1-small" / name)
        same, other = (method_rows(results.of(f"{partition}/{public}/{which}")) for which in ("same", "other"))
        for before, after in zip(same, other, strict=True):
            cell = f"{100 * after.mean:.2f} ({100 * (after.mean - before.mean):+.2f})"
            rows.setdefault(after.method, []).append(cell)
    title = f"Public data of another set, {public}"
    return Sheet(title, ["method", *HEADINGS], [[f"`{name}`", *cells] for name, cells in rows.items()])


if __name__ == "__main__":
    sheets = [
        *map(accuracy_sheet, PUBLIC),
        pfedhr_sheet("`pfedhr` to `local`, points with the 95 % interval", lambda row: points(row.to_alone)),
        pfedhr_sheet(
            "Clients that `pfedhr` leaves better / worse off", lambda row: f"{row.better} / {row.worse} of {row.pairs}"
        ),
        pfedhr_sheet(
            "Teachers of `pfedhr`, on the test examples of their clients", lambda row: f"{100 * (row.teacher or 0):.1f}"
        ),
    ]
    sheets += map(other_sheet, PUBLIC)
    print("\n".join(sheet.markdown() for sheet in sheets))
