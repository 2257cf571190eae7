"""Every method on the toy federation, and what comes of it in a form that can be compared bit for bit."""

from __future__ import annotations

import functools
import hashlib

from methods import SMALL, suited

from pfedhr.algorithms import ALGORITHMS
from pfedhr.federate import RoundResult, Schedule, federate
from pfedhr.in_process import Cohort
from pfedhr.launch import Engine

CLIENTS = 3
SCHEDULE = Schedule(2, 2)


@functools.cache
def cohort_of(name: str) -> Cohort:
    """A federation that suits the method."""
    return suited(ALGORITHMS[name](**SMALL[name]), "cnn1", "mlp", clients=CLIENTS)


def run_of(name: str) -> str:
    """What a method's run is called to its clients."""
    return f"{list(ALGORITHMS).index(name):016x}"


def outcome(name: str, engine: Engine) -> dict[str, object]:
    """Run a method and return what can be compared bit for bit."""
    results: list[RoundResult] = list(
        federate(ALGORITHMS[name](**SMALL[name]), engine, engine.server_view, engine.clients, SCHEDULE, 0)
    )
    last = results[-1]
    return {
        "states": {client: hashlib.sha256(engine.state(client) or b"").hexdigest() for client in engine.clients},
        "server": hashlib.sha256(last.progress.server).hexdigest(),
        "scores": {client: [scores.own.accuracy, scores.own.count] for client, scores in sorted(last.scores.items())},
        "bytes": [[result.bytes_up, result.bytes_down] for result in results],
    }
