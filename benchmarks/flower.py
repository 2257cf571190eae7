"""What a round on Flower's simulation costs over the same round in-process, and the memory of many clients.

Needs the extra `flower`, and a folder with MNIST in PFEDHR_DATA for a thousand clients.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.overhead import Clock
from benchmarks.timing import Measurement, Target
from pfedhr.algorithms.fedproto import FedProto
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.experiment import Experiment
from pfedhr.experiment_file import load_experiment
from pfedhr.flower.launching import simulate
from pfedhr.flower.processes import processes_with
from pfedhr.launch import start
from pfedhr.run import read_rounds

MEBIBYTE = 2**20


def measure() -> Iterator[Measurement]:
    """Yield seconds a round, and mebibytes."""
    experiment = _experiment()
    with tempfile.TemporaryDirectory() as folder:
        here, there = Path(folder) / "here", Path(folder) / "there"
        start(experiment, here, Clock())
        few = _peak(experiment, there)
        spans = [[record["seconds"] for record in read_rounds(path)][1:] for path in (here, there)]
    extra = [second - first for first, second in zip(*spans, strict=True)]
    note = f"12 clients, 4 active; in-process {min(spans[0]):.2f} to {max(spans[0]):.2f} s a round"
    yield Measurement("round on Flower, over in-process", extra, "s", Target(1.5, at_least=False), note)
    yield Measurement("memory of 12 clients on Flower", [few], "MiB", None, "all processes together, at their peak")
    if data := os.environ.get("PFEDHR_DATA"):
        with tempfile.TemporaryDirectory() as folder:
            many = _peak(_thousand(experiment, data), Path(folder) / "run")
        yield Measurement("memory of 1,000 clients on Flower", [many], "MiB", None, "10 active a round, MNIST; weights on disk")


def _experiment() -> Experiment:
    whole = load_experiment("two-classes")
    plan = replace(whole.plan, rounds=6, active=4, local_epochs=1)
    clients = replace(whole.clients, count=12)
    algorithm = PFedHR.paper(candidates=2, tuning_epochs=1)
    return replace(whole, plan=plan, clients=clients, algorithm=algorithm, compare_local=False, workers=1, device="cpu")


def _thousand(experiment: Experiment, data: str) -> Experiment:
    """Return 1,000 clients of MNIST; a method without public data, for the server's work is not the question."""
    return replace(
        experiment,
        data=replace(experiment.data, name="mnist", dir=data, partition="iid", examples=0),
        clients=replace(experiment.clients, count=1000, models=("mlp",), features=16),
        plan=replace(experiment.plan, rounds=2, active=10, evaluate_every=2),
        algorithm=FedProto(),
    )


def _peak(experiment: Experiment, path: Path) -> float:
    """Run on Flower, and return the most memory that its processes had together: shared pages count in each."""
    most, done, mark = 0.0, threading.Event(), secrets.token_hex(8)
    os.environ["PFEDHR_BENCHMARK"] = mark  # which all processes of the run inherit

    def watch() -> None:
        nonlocal most
        while not done.wait(0.5):
            most = max(most, sum(map(_resident, processes_with(f"PFEDHR_BENCHMARK={mark}"))) / MEBIBYTE)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        simulate(experiment, path, Clock())
    finally:
        done.set()
        watcher.join()
    return most


def _resident(number: int) -> int:
    try:
        return int(Path(f"/proc/{number}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
