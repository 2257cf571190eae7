"""A Flower app that runs every method on the toy federation in one start of Flower, for it takes a while to start."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from flower.every_method import CLIENTS, cohort_of, outcome, run_of
from flower.postbox import experiment_of
from methods import SMALL

from pfedhr.algorithm import ServerView
from pfedhr.algorithms import ALGORITHMS
from pfedhr.flower.errands import Participant, States
from pfedhr.flower.grid import client_app, server_app
from pfedhr.flower.mailbox import Mailbox
from pfedhr.flower.remote import Remote
from pfedhr.flower.roster import Roster
from pfedhr.flower.simulation import DIRECTORY
from pfedhr.in_process import Cohort, MemoryStore, sequential

NOW = "now"
"""Holds, in the app's folder, the method whose turn it is: networks differ by method."""


def serve(mailbox: Mailbox, run: Mapping[str, object]) -> None:
    """Run every method, and write what came of each."""
    path = Path(str(run[DIRECTORY]))
    found: dict[str, object] = {}
    for name in ALGORITHMS:
        (path / NOW).write_text(name)
        cohort = cohort_of(name)
        clients = list(cohort.networks)
        roster = Roster(mailbox)
        roster.gather(CLIENTS, 60.0)
        experiment = experiment_of(ALGORITHMS[name](**SMALL[name]), cohort, round_timeout=60.0)
        states = functools.partial(_state, path, run_of(name))
        remote = Remote(experiment, run_of(name), mailbox, roster, clients, MemoryStore(), _view_of(cohort), states)
        found[name] = outcome(name, remote)
    (path / "found.json").write_text(json.dumps(found))


def _state(path: Path, run: str, client: str, round: int) -> bytes | None:
    return States(path / client / run).load(round)


def _view_of(cohort: Cohort) -> Callable[[int], ServerView]:
    return lambda round: sequential(lambda map: cohort.server_view(round, map))


def load(run: Mapping[str, object], node: Mapping[str, object]) -> Participant:
    """Return the client of the node in the federation of the method whose turn it is."""
    path = Path(str(run[DIRECTORY]))
    cohort = cohort_of((path / NOW).read_text())
    name = list(cohort.networks)[int(str(node["partition-id"]))]
    data = cohort.federation.clients[name]
    return Participant(name, cohort.networks[name], data.train, data.test, cohort.federation.public, path / name)


server = server_app(serve)
client = client_app(load)
