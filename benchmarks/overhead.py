"""The share of a round's wall time that is neither training, nor evaluation, nor a stage of the server's step.

A run as from the command line, its directory on disk: what writing a round costs is part of the overhead, and so is what
the server does besides its stages.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.timing import Measurement, Target
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.stopwatch import STAGES
from pfedhr.experiment import Experiment
from pfedhr.experiment_file import load_experiment
from pfedhr.launch import start
from pfedhr.run import RunDirectory


class Clock:
    """Notes the time when a run begins and whenever one of its rounds is on disk."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def begin(self, label: str, rounds: int, done: int) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())

    def end_round(self, label: str, record: Mapping[str, Any]) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())


def measure() -> Iterator[Measurement]:
    """Yield the share in per cent, of three rounds of a shorter `two-classes`."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        start(_experiment(), path, clock)
        rounds = RunDirectory(path).rounds()
    spans = [after - before for before, after in pairwise(clock.times)]
    shares = [100 * (1 - _work(record) / span) for record, span in zip(rounds, spans, strict=True)]
    note = f"of rounds of {min(spans):.1f} to {max(spans):.1f} s"
    yield Measurement("overhead", shares, "%", Target(3, at_least=False), note)


def _work(record: dict[str, Any]) -> float:
    """Return the seconds of a round that went into what the round is for."""
    return record["train_seconds"] + record["evaluate_seconds"] + sum(record.get(f"{stage}_seconds", 0.0) for stage in STAGES)


def _experiment() -> Experiment:
    whole = load_experiment("two-classes")
    return replace(
        whole,
        compare_local=False,
        data=replace(whole.data, examples=2000),
        plan=replace(whole.plan, rounds=3, local_epochs=3),
        algorithm=PFedHR.paper(candidates=4),
    )
