"""The numbers that the pFedHR paper gives, on splits of its own: to stand beside ours, and never to be aimed at."""

from __future__ import annotations

import csv
import functools
import io
from importlib import resources
from typing import NamedTuple

from pfedhr.reproduction.targets import Conditions


class Place(NamedTuple):
    """Where a number stands: `value` is the figure's axis, or the table's model, if it has one."""

    target: str
    public: str
    method: str
    data: str
    partition: str
    value: str


class Published(NamedTuple):
    """An accuracy in percent, and where it was read: in a text or table, from a bar, or from the drop that a bar bears."""

    percent: float
    kind: str

    def __str__(self) -> str:
        return f"{self.percent:.2f}" if self.kind == "text" else f"{self.percent:g} ({self.kind})"


@functools.cache
def published() -> dict[Place, Published]:
    """Return the accuracies by place."""
    text = (resources.files("pfedhr.reproduction") / "published.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return {Place(*(row[name] for name in Place._fields)): Published(float(row["percent"]), row["kind"]) for row in rows}


def published_beside(target: str, setting: str, method: str, data: str) -> Published | None:
    """Return what was published for a method in a setting of a target, if anything."""
    at = Conditions.parse(setting)
    return published().get(Place(target, at.public, method, data, at.partition, at.value))
