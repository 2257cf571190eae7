"""Rounds of four clients with equal networks in one process, over the same rounds in two worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.timing import Measurement, Target, interleaved, ratios
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.private import initial_weights, train_privately
from pfedhr.experiment import ClientOptions, Experiment
from pfedhr.experiment_file import load_experiment
from pfedhr.federate import RoundResult, federate
from pfedhr.in_process import Cohort, InProcess, Workers
from pfedhr.launch import prepare

ROUNDS = 3


def measure() -> Iterator[Measurement]:
    """Yield how many times faster two processes are at training alone, which is what the cores allow, and at rounds.

    The first round of each, in which the processes start, is not counted.
    """
    experiment = _experiment()
    cohort = prepare(experiment)
    with Workers(cohort, 1) as one, Workers(cohort, 2) as two:
        by_one, by_two = _rounds(experiment, one), _rounds(experiment, two)
        actions = (lambda: _train_all(one), lambda: _train_all(two), lambda: next(by_one), lambda: next(by_two))
        train_one, train_two, round_one, round_two = interleaved(*actions, repeats=ROUNDS)
    note = "what the cores allow: no messages, no server, no states"
    yield Measurement("workers, training alone", ratios(train_one, train_two), "times", note=note)
    note = f"given two idle cores; rounds of {min(round_one):.1f} to {max(round_one):.1f} s by one"
    yield Measurement("workers", ratios(round_one, round_two), "times", Target(1.6, at_least=True), note)


def _train_all(workers: Workers) -> list[float]:
    return list(workers.run(_train, [(client,) for client in list(workers.cohort.networks)[:4]]))


def _train(cohort: Cohort, client: str) -> float:
    view = cohort.client_view(client, 1)
    _, metrics = train_privately(view, initial_weights(view))
    return metrics["loss"]


def _rounds(experiment: Experiment, workers: Workers) -> Iterator[RoundResult]:
    engine = InProcess(experiment.algorithm, workers)
    clients, schedule = list(workers.cohort.networks), experiment.plan.schedule
    return federate(experiment.algorithm, engine, engine.server_view, clients, schedule, experiment.seed)


def _experiment() -> Experiment:
    whole = load_experiment("two-classes")
    return replace(
        whole,
        data=replace(whole.data, examples=2000),
        clients=ClientOptions(count=8, models=("cnn2",)),
        plan=replace(whole.plan, rounds=1 + ROUNDS, local_epochs=5),
        algorithm=PFedHR.paper(candidates=8),
    )
