"""A run of the command line as Flower simulates it: what its server and its clients do in Flower's processes.

All they are given is the run's directory: the experiment in it makes the same clients as in every engine, and their states are
kept under `clients/`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from pfedhr.algorithm import ServerView
from pfedhr.disk import LockedError, locked, write
from pfedhr.errors import FAILURE, PfedhrError
from pfedhr.experiment import Experiment
from pfedhr.flower.errands import Participant, States
from pfedhr.flower.mailbox import Mailbox
from pfedhr.flower.remote import Remote
from pfedhr.flower.roster import Roster
from pfedhr.in_process import Cohort, sequential
from pfedhr.launch import make_cohort, outcomes, run_on
from pfedhr.run import RunDirectory, run_name
from pfedhr.stored import check_data, stored_experiment
from pfedhr.watching import Silent

DIRECTORY = "run-directory"
"""The setting of Flower's run that names the run's directory."""


def simulated_server(mailbox: Mailbox, config: Mapping[str, object]) -> None:
    """Run, or go on with, the run whose directory `config` names. What the user can mend is written there, too."""
    path = Path(str(config[DIRECTORY]))
    try:
        experiment = stored_experiment(path)
        cohort, roster = _cohort(path), Roster(mailbox)
        clients = list(cohort.federation.clients)
        roster.wanted = frozenset(clients)
        roster.gather(len(clients), experiment.engine.round_timeout)

        def engine(experiment: Experiment, directory: RunDirectory) -> Remote:
            run = run_name(path, directory)

            def states(client: str, round: int) -> bytes | None:
                return States(path / "clients" / client / run).load(round)

            def view(round: int) -> ServerView:
                return sequential(lambda map: cohort.server_view(round, map))

            return Remote(experiment, run, mailbox, roster, clients, directory, view, states)

        run_on(experiment, path, Silent(), engine, functools.partial(outcomes, cohort))
    except LockedError:
        raise  # what another process does there is not for this one to tell of
    except PfedhrError as error:
        with locked(path):
            write(path / FAILURE, str(error).encode())
        raise


def simulated_client(run: Mapping[str, object], node: Mapping[str, object]) -> Participant:
    """Return the client of the number that Flower gave to the node."""
    path = Path(str(run[DIRECTORY]))
    cohort = _cohort(path)
    client = list(cohort.federation.clients)[int(str(node["partition-id"]))]
    data = cohort.federation.clients[client]
    folder, public = path / "clients" / client, cohort.federation.public
    secret = cohort.privacy.secret if cohort.privacy else None
    drawn = None if secret is None else lambda run: secret  # that of the same run in one process
    return Participant(client, cohort.networks[client], data.train, data.test, public, folder, drawn)


@functools.lru_cache(maxsize=1)
def _cohort(path: Path) -> Cohort:
    """Return the run's clients, made once a process. Raises RunError if another process has made others."""
    cohort = make_cohort(stored_experiment(path))
    check_data(path, cohort.federation.digests)
    cohort.build_networks()
    return cohort
