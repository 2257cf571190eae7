"""Our numbers beside the published ones."""

from __future__ import annotations

from dataclasses import replace

from pfedhr.report.comparison import mean_and_spread, method_rows, told_seeds
from pfedhr.report.sheet import Sheet
from pfedhr.reproduction.published import published_beside
from pfedhr.reproduction.targets import Conditions, Target
from pfedhr.results import Results

HEADS = {"iid": "IID", "classes": "two classes", "dirichlet": "Dirichlet"}
PUBLISHED = "published"


def heading(setting: str) -> str:
    """Return the words for a setting's partition and public data."""
    at = Conditions.parse(setting)
    return f"{HEADS[at.partition]}, {at.public}"


def beside_sheet(target: Target, scale: str, results: Results, data: str) -> Sheet:
    """Return a row a method, public data and value of the axis: ours, ± over seeds, and what is published, by partition.

    The seeds are told where they are not the same in all rows.
    """
    found: dict[tuple[str, str, str], dict[str, tuple[str, str, str]]] = {}
    rows_of = {setting: method_rows(results.of(setting)) for setting in results.settings}
    alike = len({row.seeds for rows in rows_of.values() for row in rows}) < 2
    for setting, there_are in rows_of.items():
        at = Conditions.parse(setting)
        for row in there_are:
            there = published_beside(target.name, setting, row.method, data)
            ours = (mean_and_spread(row.mean, row.spread), "" if alike else told_seeds(row.seeds))
            found.setdefault((at.public, at.value, row.method), {})[at.partition] = (*ours, "" if there is None else str(there))
    partitions = [partition for partition in HEADS if any(partition in ours for ours in found.values())]
    rows = [
        [*place, *(cell for partition in partitions for cell in ours.get(partition, ("", "", "")))]
        for place, ours in found.items()
    ]
    headings = ["public", target.axis or "value", "method"]
    headings += [f"{HEADS[partition]}, {whose}" for partition in partitions for whose in ("ours", "seeds", PUBLISHED)]
    sheet = Sheet(f"{target.title}, {data}: mean accuracy in percent", headings, rows).filled()
    if not any(heading.endswith(PUBLISHED) for heading in sheet.headings):
        return sheet
    others = "other splits" if scale == "paper" else "other splits and the whole protocol"
    return replace(sheet, title=f"{sheet.title}; the published numbers are of {others}")
