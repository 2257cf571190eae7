"""The numbers that the pFedHR paper prints, on splits of its own: to stand beside ours, and never to be aimed at."""

from __future__ import annotations

import csv
import functools
import io
from importlib import resources
from typing import NamedTuple


class Place(NamedTuple):
    """Where a number stands: `value` is the figure's axis, or the table's model, if it has one."""

    target: str
    public: str
    method: str
    data: str
    partition: str
    value: str


@functools.cache
def published() -> dict[Place, float]:
    """Return the accuracies in percent by place; those of figures were read from bars, and are rounded."""
    text = (resources.files("pfedhr.reproduction") / "published.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return {Place(*(row[name] for name in Place._fields)): float(row["percent"]) for row in rows}
