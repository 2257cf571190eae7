"""Which client does what wrong in which round."""

from __future__ import annotations

from toy import make_cohort

from pfedhr.federate import Schedule
from pfedhr.in_process import Cohort

FAULTS = {
    ("client01", 1): "raises",
    ("client02", 2): "late",
    ("client01", 3): "garbage",
    ("client02", 4): "as another",
    ("client01", 5): "other records",
}
SCHEDULE = Schedule(6, 3)
TIMEOUT, LATE = 12.0, 20.0
"""Seconds that a round waits, and that the late client takes: it is at work when the next round has begun."""


def cohort() -> Cohort:
    """The federation that they belong to."""
    return make_cohort("mlp", clients=3)
