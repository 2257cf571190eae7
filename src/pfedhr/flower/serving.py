"""The server of a deployment: runs an experiment over clients that come from their own machines, and keeps where it stands."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pfedhr.algorithm import Algorithm, ServerView
from pfedhr.data import Public
from pfedhr.disk import write
from pfedhr.experiment import EngineOptions, Experiment
from pfedhr.experiment_file import dump
from pfedhr.federate import Progress
from pfedhr.flower.errands import Presence
from pfedhr.flower.mailbox import FederationError, Mailbox
from pfedhr.flower.remote import Remote
from pfedhr.flower.roster import Roster
from pfedhr.in_process import sequential
from pfedhr.launch import Engine, last_scores, run_on, spent
from pfedhr.run import ClientOutcome, RunDirectory, run_name
from pfedhr.stored import stored_experiment
from pfedhr.transport import LOG

CLIENTS = "participants.json"
"""Holds, in the run's directory, who takes part."""


@dataclass(frozen=True)
class ServerData:
    """What the server of a deployment holds: public data, the number of classes, and whether a mirror image keeps its class."""

    public: Public
    classes: int
    mirror: bool


def serve(mailbox: Mailbox, experiment: Experiment, data: ServerData, path: Path) -> list[ClientOutcome]:
    """Run an experiment in `path`, or go on with it from its last finished round; return how each client ended.

    It begins once `clients.count` clients have come, who are its clients from then on; if more have, the first by name. To go
    on it waits for `engine.min_clients` of them. The server has no network of a client, so `models/` is not written. Raises
    FederationError, and RunError if `path` holds something else, or no client was ever evaluated.
    """
    if (path / "experiment.toml").exists():
        stored = stored_experiment(path)
        if replace(stored, engine=EngineOptions()) != replace(experiment, engine=EngineOptions()):
            raise FederationError(f"{path} holds a run of another experiment: choose another folder, or restore its experiment")
    else:
        RunDirectory.create(path, dump(experiment))
    roster = Roster(mailbox, dump(experiment))
    presences = _gather(roster, experiment, path / CLIENTS)

    def view(round: int) -> ServerView:
        def with_map(map: Any) -> ServerView:
            device = experiment.torch_device
            return ServerView(data.public, data.classes, data.mirror, round, experiment.seed, device, map)

        return sequential(with_map)

    def engine(experiment: Experiment, directory: RunDirectory) -> Remote:
        return Remote(experiment, run_name(path, directory), mailbox, roster, sorted(presences), directory, view)

    def outcomes(algorithm: Algorithm, engine: Engine, directory: RunDirectory, progress: Progress) -> Iterator[ClientOutcome]:
        counts = {client: presence.train for client, presence in presences.items()}
        return _outcomes(presences, progress, spent(experiment.privacy.privacy, experiment.plan.training, counts, directory))

    return run_on(experiment, path, _Told(), engine, outcomes)


def _gather(roster: Roster, experiment: Experiment, file: Path) -> dict[str, Presence]:
    """Return who takes part: those who come first, or who came when the run began."""
    options = experiment.engine
    if not file.exists():
        LOG.info("waiting for %d clients", experiment.clients.count)
        count = experiment.clients.count
        came = roster.gather(count, options.round_timeout)
        names = came[:count]
        for name in came[count:]:
            LOG.warning("client %s has come, too, and is left out: clients.count = %d", name, count)
        write(file, json.dumps([asdict(roster.present[name]) for name in names], indent=1).encode())
    presences = {one["client"]: Presence(**one) for one in json.loads(file.read_text(encoding="utf-8"))}
    roster.wanted = frozenset(presences)
    roster.gather(options.min_clients, options.round_timeout)
    return presences


def _outcomes(presences: Mapping[str, Presence], progress: Progress, epsilons: Mapping[str, float]) -> Iterator[ClientOutcome]:
    """Yield how each client ended that was ever evaluated; which classes it holds, the server is not told."""
    for client, presence in presences.items():
        scores = last_scores(client, progress)
        if scores is None:
            continue
        yield ClientOutcome(
            client=client,
            model=presence.model,
            parameters=presence.parameters,
            train=presence.train,
            test=presence.test,
            classes=(),
            accuracy=scores.own.accuracy,
            teacher_accuracy=scores.teacher.accuracy if scores.teacher else None,
            alone_accuracy=None,
            epsilon=epsilons.get(client),
        )


class _Told:
    """Watches a run, and says how it goes in the log."""

    def begin(self, label: str, rounds: int, done: int) -> None:
        """Say where the run stands."""
        LOG.info("%s: %d rounds, %d of them done", label, rounds, done)

    def end_round(self, label: str, record: Mapping[str, Any]) -> None:
        """Say how the round ended."""
        accuracy = record["accuracy"]
        mean = f"mean accuracy {accuracy['mean']:.3f}" if accuracy else "not evaluated yet"
        LOG.info("%s: round %d, %d clients: %s", label, record["round"], len(record["losses"]), mean)
