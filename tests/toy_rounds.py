"""Rounds of a small federation, from its cohort to what every client ends with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pfedhr.algorithm import Algorithm
from pfedhr.federate import RoundResult, Schedule, federate
from pfedhr.in_process import Cohort, InProcess, MemoryStore, Workers

Outcome = tuple[list[RoundResult], dict[str, bytes | None]]


def run(algorithm: Algorithm, cohort: Cohort, schedule: Schedule, stop_after: int = 0) -> Outcome:
    """Every round's result and every client's last state; with `stop_after`, of a run that was stopped there and resumed."""
    with Workers(cohort) as crew:
        return run_on(crew, algorithm, schedule, stop_after)


def run_on(crew: Workers, algorithm: Algorithm, schedule: Schedule, stop_after: int = 0) -> Outcome:
    store, clients = MemoryStore(), list(crew.cohort.federation.clients)
    results: list[RoundResult] = []
    for rounds in (stop_after, schedule.rounds):
        engine = InProcess(algorithm, crew, store)  # a new one knows what is in the store, and nothing else
        part = dataclasses.replace(schedule, rounds=rounds)
        progress = results[-1].progress if results else None
        results += federate(algorithm, engine, engine.server_view, clients, part, crew.cohort.seed, progress)
    return results, {client: store.load(client) for client in clients}


def without_times(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: without_times(item) for key, item in value.items() if "seconds" not in str(key)}
    if dataclasses.is_dataclass(value):
        return without_times({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    return value
