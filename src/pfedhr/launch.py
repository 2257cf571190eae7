"""From an experiment to its results: data, networks, checks, rounds, files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from pfedhr.algorithm import Algorithm, Setup
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.needs import private_training, public_data
from pfedhr.algorithms.private import weights_of
from pfedhr.data import build_federation
from pfedhr.disk import locked
from pfedhr.experiment import Experiment
from pfedhr.experiment_file import dump, parse
from pfedhr.federate import Progress, RoundResult, federate, start_progress
from pfedhr.in_process import Cohort, InProcess, Workers
from pfedhr.learning import epsilon, private_steps
from pfedhr.models import ModelSpec, build, check_last_batch, check_network
from pfedhr.parcel import unpack
from pfedhr.run import ClientOutcome, RunDirectory, check_free, read_experiment


class Watcher(Protocol):
    """Told of what happens; a run has a `label`, the name of its method."""

    def begin(self, label: str, rounds: int, done: int) -> None:
        """A run of `rounds` begins, or goes on after `done` of them."""
        ...

    def end_round(self, label: str, result: RoundResult) -> None:
        """A round has ended."""
        ...


def prepare(experiment: Experiment) -> Cohort:
    """Return the data and networks of an experiment, once all that can be known before training is in order.

    Raises DataError, ModelError, DecompositionError or SettingError.
    """
    federation = build_federation(experiment.data, experiment.public, experiment.clients.count, experiment.seed)
    dealt, features = experiment.clients.models, experiment.clients.features
    networks = {
        client: ModelSpec(dealt[number % len(dealt)], federation.shape, federation.classes, features)
        for number, client in enumerate(federation.clients)
    }
    training = experiment.plan.training
    setup = Setup(networks, federation.public, training, experiment.plan.active)
    public_data(experiment.algorithm, setup)
    example = setup.examples[:1]
    for network in sorted(set(networks.values()), key=lambda network: network.factory):
        check_network(network, torch.cat([example, example]))
    for client, network in networks.items():
        count = len(federation.clients[client].train)
        check_last_batch(network, example, count, training.batch_size, f"plan.batch_size and client {client}")
    experiment.algorithm.check(setup)
    privacy = experiment.privacy.privacy
    if privacy:
        private_training(
            experiment.algorithm, setup, privacy, {name: len(one.train) for name, one in federation.clients.items()}
        )
    return Cohort(federation, networks, training, privacy, experiment.seed, experiment.torch_device)


def start(experiment: Experiment, path: Path, watch: Watcher) -> list[ClientOutcome]:
    """Run an experiment in the new directory `path`; return how each client ended.

    Nothing is written before the experiment has been checked. Raises RunError if `path` is not empty.
    """
    check_free(path)
    cohort = prepare(experiment)
    RunDirectory.create(path, dump(experiment))
    return _run(experiment, cohort, path, watch, experiment.workers)


def stored_experiment(path: Path) -> Experiment:
    """Return the experiment of the run in `path`. Raises RunError if there is none."""
    return parse(read_experiment(path), f"{path}/experiment.toml")


def resume(path: Path, watch: Watcher, workers: int | None = None) -> list[ClientOutcome]:
    """Take up the run in `path` where it was left, to the same end as if it had never stopped. Raises RunError.

    `workers` takes the place of the number that the run began with: no result depends on it.
    """
    experiment = stored_experiment(path)
    return _run(experiment, prepare(experiment), path, watch, experiment.workers if workers is None else workers)


def _run(experiment: Experiment, cohort: Cohort, path: Path, watch: Watcher, count: int) -> list[ClientOutcome]:
    """Run, or go on with, the clients alone and then the method itself, on the same `count` workers."""
    with locked(path), Workers(cohort, count) as workers:
        alone: dict[str, float] = {}
        if experiment.compare_local and not isinstance(experiment.algorithm, Local):
            below = path / "local"
            reference = replace(experiment, algorithm=Local(), compare_local=False)
            exists = (below / "experiment.toml").exists()
            directory = RunDirectory(below) if exists else RunDirectory.create(below, dump(reference))
            alone = {one.client: one.accuracy for one in _rounds(reference, workers, directory, watch, {})}
        return _rounds(experiment, workers, RunDirectory(path), watch, alone)


def _rounds(
    experiment: Experiment, workers: Workers, directory: RunDirectory, watch: Watcher, alone: dict[str, float]
) -> list[ClientOutcome]:
    """Run the rounds that are left, and write the final files."""
    cohort, algorithm = workers.cohort, experiment.algorithm
    engine = InProcess(algorithm, workers, directory)
    clients = list(cohort.federation.clients)
    schedule = experiment.plan.schedule
    progress = directory.progress or start_progress(algorithm, engine.server_view(0), clients)
    watch.begin(algorithm.name, schedule.rounds, progress.round)
    for result in federate(algorithm, engine, engine.server_view, clients, schedule, experiment.seed, progress):
        directory.end_round(result)
        watch.end_round(algorithm.name, result)
        progress = result.progress
    outcomes = list(_outcomes(algorithm, cohort, directory, progress, alone))
    directory.finish(outcomes)
    return outcomes


def _outcomes(
    algorithm: Algorithm, cohort: Cohort, directory: RunDirectory, progress: Progress, alone: dict[str, float]
) -> Iterator[ClientOutcome]:
    """Write every client's network, and yield how the client ended."""
    sizes = {network: _parameters(network) for network in set(cohort.networks.values())}
    spent = _spent(cohort, directory)
    for client, data in cohort.federation.clients.items():
        view = cohort.client_view(client, progress.round)
        state = directory.load(client)
        own = algorithm.init_client(view) if state is None else unpack(algorithm.client_state, state)
        directory.save_network(client, weights_of(algorithm.personal_model(own, view)))
        scores = progress.scores[client]
        yield ClientOutcome(
            client=client,
            model=view.network.factory,
            parameters=sizes[view.network],
            train=len(data.train),
            test=len(data.test),
            classes=tuple(data.train.labels.unique().tolist()),
            accuracy=scores.own.accuracy,
            teacher_accuracy=scores.teacher.accuracy if scores.teacher else None,
            alone_accuracy=alone.get(client),
            epsilon=spent.get(client),
        )


def _spent(cohort: Cohort, directory: RunDirectory) -> dict[str, float]:
    """Return the epsilon of every client after the rounds that have ended; of none where there is no privacy.

    A client that was selected counts as having trained, for it may have even where its report was lost.
    """
    if cohort.privacy is None:
        return {}
    rounds = Counter(client for record in directory.rounds() for client in record["active"])
    counts = {client: len(data.train) for client, data in cohort.federation.clients.items()}
    size = cohort.training.batch_size
    return {
        client: epsilon(cohort.privacy, size / count, rounds[client] * private_steps(count, cohort.training))
        for client, count in counts.items()
    }


def _parameters(network: ModelSpec) -> int:
    return sum(value.numel() for value in build(network, 0).parameters())
