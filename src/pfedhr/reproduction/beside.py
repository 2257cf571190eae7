"""Our numbers beside the published ones."""

from __future__ import annotations

import statistics

from pfedhr.report.sheet import Sheet
from pfedhr.reproduction.published import Place, published
from pfedhr.reproduction.targets import PARTITIONS, Target
from pfedhr.results import Results

HEADS = {"iid": "IID", "classes": "two classes"}


def beside_sheet(target: Target, results: Results, data: str) -> Sheet:
    """Return a row a method, public data and value of the axis: ours, ± over seeds, and what is published, by partition."""
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for setting in results.settings:
        partition, public, value = setting.split("/")
        held = results.of(setting)
        for method in held.methods:
            means = [100 * row.mean for row in held.cells if row.method == method]
            spread = statistics.stdev(means) if len(means) > 1 else 0.0
            found.setdefault((public, value, method), {})[partition] = f"{statistics.fmean(means):.2f} ± {spread:.2f}"
    rows = [
        [public, *([value] if target.axis else []), method, *_cells(target, data, public, value, method, ours)]
        for (public, value, method), ours in found.items()
    ]
    headings = ["public", *([target.axis] if target.axis else []), "method"]
    headings += [f"{HEADS[partition]}, {whose}" for partition in PARTITIONS for whose in ("ours", "published")]
    title = f"{target.title}, {data}: mean accuracy; the published numbers are of other splits and more data"
    return Sheet(title, headings, rows)


def _cells(target: Target, data: str, public: str, value: str, method: str, ours: dict[str, str]) -> list[str]:
    cells: list[str] = []
    for partition in PARTITIONS:
        percent = published().get(Place(target.name, public, method, data, partition, value))
        cells += [ours.get(partition, ""), "" if percent is None else f"{percent:.2f}"]
    return cells
