"""A round of every method over its own training steps: what the method costs besides the training that it asks for.

On the `small` scale of the reproduced tables, one process, the second and third round of three. Training steps are timed where
they run, in `fit` or in the step that takes its place; the benchmark `fit` holds those against a bare loop.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from benchmarks.timing import Measurement, Target
from pfedhr.algorithm import Algorithm
from pfedhr.algorithms import ALGORITHMS
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.pfedme import PFedMe
from pfedhr.experiment import Experiment
from pfedhr.federate import Schedule, federate
from pfedhr.in_process import InProcess, Workers
from pfedhr.launch import prepare
from pfedhr.learning import fit
from pfedhr.reproduction import SCALES
from pfedhr.reproduction.targets import HOMOGENEOUS

FAMILY = ("cnn4-quarter", "cnn4-eighth")
"""What HeteroFL's clients have here: slices of one network."""


def measure() -> Iterator[Measurement]:
    """Yield the ratio of each method."""
    for name in ALGORITHMS:
        values, seconds = _ratios(_experiment(name))
        yield Measurement(f"round {name}", values, "times", Target(1.5, at_least=False), f"rounds of {seconds:.1f} s")


def _experiment(name: str) -> Experiment:
    base = SCALES["small"].experiment
    data = replace(base.data, name="fashion-mini")
    models = FAMILY if name == "heterofl" else ("cnn3",) if name in HOMOGENEOUS else base.clients.models
    clients = replace(base.clients, models=models, features=0 if name == "heterofl" else base.clients.features)
    return replace(base, data=data, clients=clients, algorithm=_method(name, base.algorithm))


def _method(name: str, tuned: Algorithm) -> Algorithm:
    """Return the method as the small scale has it."""
    if name == "heterofl":
        return ALGORITHMS[name](global_network=FAMILY[0])
    assert isinstance(tuned, PFedHR)
    if name in ("pfedhr", "pfedclub"):
        return ALGORITHMS[name](candidates=tuned.candidates, tuning_batch_size=tuned.tuning_batch_size)
    return ALGORITHMS[name]()


def _ratios(experiment: Experiment) -> tuple[list[float], float]:
    cohort, method = prepare(experiment), experiment.algorithm
    values: list[float] = []
    spans: list[float] = []
    with Workers(cohort) as workers, _timed_training() as trained:
        engine = InProcess(method, workers)
        clients = list(cohort.federation.clients)
        before = 0.0
        for result in federate(method, engine, engine.server_view, clients, Schedule(3, experiment.plan.active), 0):
            if result.round > 1:
                spans.append(result.seconds)
                values.append(result.seconds / (trained[0] - before))
            before = trained[0]
    return values, sum(spans) / len(spans)


@contextmanager
def _timed_training() -> Iterator[list[float]]:
    """Yield the seconds so far, in a list of one, that went into training inside the block."""
    seconds = [0.0]

    def timed(action: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return action(*arguments, **named)
            finally:
                seconds[0] += time.perf_counter() - start

        return run

    users = [module for name, module in sys.modules.items() if name.startswith("pfedhr.algorithms.") and hasattr(module, "fit")]
    patches = [patch.object(module, "fit", timed(fit)) for module in users]
    patches.append(patch.object(PFedMe, "envelope_step", timed(PFedMe.envelope_step)))
    for each in patches:
        each.start()
    try:
        yield seconds
    finally:
        for each in patches:
            each.stop()
