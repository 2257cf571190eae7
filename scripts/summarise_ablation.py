"""Print the table of docs/method.md of what each piece brings, from the rows of `ablation` in docs/results.

python scripts/summarise_ablation.py
"""

from __future__ import annotations

from pathlib import Path

from pfedhr.report.comparison import MethodRow, method_rows
from pfedhr.report.sheet import Sheet
from pfedhr.reproduction.beside import heading
from pfedhr.results import read_results

FOLDER = Path(__file__).parents[1] / "docs" / "results" / "ablation-small" / "fashion-mnist"


def forms() -> tuple[list[str], dict[str, dict[str, MethodRow]]]:
    """Return the headings of the settings, and every form's rows by them, in the order in which pieces are added."""
    results = read_results(FOLDER)
    rows: dict[str, dict[str, MethodRow]] = {}
    for setting in results.settings:
        for row in method_rows(results.of(setting)):
            rows.setdefault(row.method, {})[heading(setting)] = row
    return list(map(heading, results.settings)), rows


def accuracies(row: MethodRow | None) -> str:
    """Return the mean accuracy of clients, and in brackets that of their teachers where they have some."""
    if row is None:
        return ""
    return f"{100 * row.mean:.1f}" + (f" ({100 * row.teacher:.0f})" if row.teacher is not None else "")


if __name__ == "__main__":
    headings, rows = forms()
    # Of the settings' seconds the least, for what else the machine did beside a run only adds to them.
    lines = [
        [
            f"`{form}`",
            *(accuracies(found.get(setting)) for setting in headings),
            f"{min(row.server_seconds for row in found.values()):.1f}",
        ]
        for form, found in rows.items()
    ]
    print(Sheet("What each piece brings (%)", ["form", *headings, "server s, least"], lines).markdown())
