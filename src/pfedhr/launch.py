"""From an experiment to its results: data, networks, checks, rounds, files."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from pfedhr.algorithm import Algorithm, ServerView, Setup
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.needs import choices, private_training, public_data
from pfedhr.algorithms.private import weights_of
from pfedhr.data import build_federation, ready
from pfedhr.disk import locked, write
from pfedhr.experiment import Experiment
from pfedhr.experiment_file import dump
from pfedhr.federate import Progress, federate, start_progress
from pfedhr.in_process import Cohort, InProcess, Workers
from pfedhr.learning import Privacy, Training, epsilon, private_steps
from pfedhr.models import ModelSpec, build, check_inputs_of, check_last_batch, check_network
from pfedhr.record import record
from pfedhr.run import ClientOutcome, RunDirectory, RunError, check_free, on_flower
from pfedhr.stored import keep_data, numbers_alone, stored_experiment
from pfedhr.transport import LOG, Scores, Transport, client_state, failures_told
from pfedhr.watching import Watcher


class Engine(Transport, Protocol):
    """What runs a method's rounds: a transport, and what the loop and the run's end have to know besides."""

    @property
    def clients(self) -> Sequence[str]:
        """All clients, in the order that selections draw from."""
        ...

    def server_view(self, round: int) -> ServerView:
        """Return what the server may see in `round`."""
        ...

    def state(self, client: str) -> bytes | None:
        """Return the client's state as the run counts it, or None if it has never taken part."""
        ...


EngineMaker = Callable[[Experiment, RunDirectory], Engine]
"""Makes the engine of an experiment's method, whose place among the rounds is kept in the run's directory."""
Outcomes = Callable[[Algorithm, Engine, RunDirectory, Progress], Iterable[ClientOutcome]]
"""Tells how each client ended, given where the run stands after its last round."""


def make_cohort(experiment: Experiment) -> Cohort:
    """Return the data and networks of an experiment, unchecked. Raises DataError."""
    federation = build_federation(experiment.data, experiment.public, experiment.clients.count, experiment.seed)
    dealt, features = experiment.clients.models, experiment.clients.features
    networks = {
        client: ModelSpec(dealt[number % len(dealt)], federation.shape, federation.classes, features)
        for number, client in enumerate(federation.clients)
    }
    privacy = experiment.privacy.privacy
    if privacy:
        # For all that makes a run but its method: a client trains by several on the same examples.
        settings = dump(replace(numbers_alone(experiment), algorithm=Local()))
        privacy = privacy.drawn_for(settings, experiment.seed)
    return Cohort(federation, networks, experiment.plan.training, privacy, experiment.seed, experiment.torch_device)


def prepare(experiment: Experiment) -> Cohort:
    """Return the data and networks of an experiment, once all that can be known before training is in order.

    Raises DataError, ModelError, DecompositionError or SettingError.
    """
    cohort = make_cohort(experiment)
    networks, training = cohort.networks, cohort.training
    setup = Setup(networks, cohort.federation.public, training, experiment.plan.active)
    choices(experiment.algorithm)
    public_data(experiment.algorithm, setup)
    data = cohort.federation
    tell_unused(sum(len(one.train) + len(one.test) for one in data.clients.values()), data.unused)
    example, extremes = setup.examples[:1], ready(data.extremes, torch.device("cpu"))
    for network in sorted(set(networks.values()), key=lambda network: network.factory):
        check_network(network, torch.cat([example, example]))
        if len(extremes):
            check_inputs_of(network, extremes, "the examples of the least and the largest numbers")
    for client, network in networks.items():
        count = len(data.clients[client].train)
        check_last_batch(network, example, count, training.batch_size, f"plan.batch_size and client {client}")
    with failures_told("the check before any training"):
        experiment.algorithm.check(setup)
    if cohort.privacy:
        sizes = {client: len(data.train) for client, data in cohort.federation.clients.items()}
        private_training(experiment.algorithm, setup, cohort.privacy, sizes)
    return cohort


@functools.cache
def tell_unused(used: int, unused: int) -> None:
    """Warn, once for all runs of a study, where clients hold less than half of the private examples."""
    if used < unused:
        told = "clients hold %d of %d private examples: with data.partition = classes they get as many of every class as the "
        told += "scarcest has for all, or data.shard_size; iid and dirichlet leave none out"
        LOG.warning(told, used, used + unused)


def start(experiment: Experiment, path: Path, watch: Watcher) -> list[ClientOutcome]:
    """Run an experiment in the new directory `path`; return how each client ended.

    Nothing is written before the experiment has been checked. Raises RunError if `path` is not empty.
    """
    check_free(path)
    cohort = prepare(experiment)
    RunDirectory.create(path, dump(experiment))
    return _run(experiment, cohort, path, watch, experiment.workers)


def resume(path: Path, watch: Watcher, workers: int | None = None) -> list[ClientOutcome]:
    """Take up the run in `path` where it was left, to the same end as if it had never stopped. Raises RunError.

    `workers` takes the place of the number that the run began with: no result depends on it.
    """
    experiment = stored_experiment(path)
    if on_flower(path):
        raise RunError(f"the run in {path} was begun on Flower, where clients keep their states: resume it by --engine flower")
    return _run(experiment, prepare(experiment), path, watch, experiment.workers if workers is None else workers)


def _run(experiment: Experiment, cohort: Cohort, path: Path, watch: Watcher, count: int) -> list[ClientOutcome]:
    keep_data(path, cohort.federation.digests)
    with Workers(cohort, count) as workers:
        return run_on(experiment, path, watch, _in_process(workers), functools.partial(outcomes, cohort))


def _in_process(workers: Workers) -> EngineMaker:
    return lambda experiment, directory: InProcess(experiment.algorithm, workers, directory)


def run_on(experiment: Experiment, path: Path, watch: Watcher, engine: EngineMaker, outcomes: Outcomes) -> list[ClientOutcome]:
    """Run, or go on with, the clients alone where that is asked for, and then the method itself, on whatever engine."""
    with locked(path):
        alone: dict[str, float] = {}
        if experiment.compare_local and not isinstance(experiment.algorithm, Local):
            below = path / "local"
            reference = replace(experiment, algorithm=Local(), compare_local=False)
            if (below / "experiment.toml").exists():
                write(below / "experiment.toml", dump(reference).encode())  # the rounds may be more by now
                directory = RunDirectory(below)
            else:
                directory = RunDirectory.create(below, dump(reference))
            ended = _rounds(reference, engine(reference, directory), directory, watch, outcomes)
            alone = {one.client: one.accuracy for one in ended}
            directory.finish(ended)
        directory = RunDirectory(path)
        ended = _rounds(experiment, engine(experiment, directory), directory, watch, outcomes)
        ended = [replace(one, alone_accuracy=alone.get(one.client)) for one in ended]
        directory.finish(ended)
        return ended


def _rounds(
    experiment: Experiment, engine: Engine, directory: RunDirectory, watch: Watcher, outcomes: Outcomes
) -> list[ClientOutcome]:
    """Run the rounds that are left, and return how the clients ended. Raises RunError if none was ever evaluated."""
    algorithm, schedule = experiment.algorithm, experiment.plan.schedule
    progress = directory.progress or start_progress(algorithm, engine.server_view(0), engine.clients)
    watch.begin(algorithm.name, schedule.rounds, progress.round)
    for result in federate(algorithm, engine, engine.server_view, engine.clients, schedule, experiment.seed, progress):
        directory.end_round(result)
        watch.end_round(algorithm.name, record(result))
        progress = result.progress
    ended = list(outcomes(experiment.algorithm, engine, directory, progress))
    if not ended:
        raise RunError(
            f"no client in {directory.path} was ever evaluated, so there are no results: mend what the log says of their "
            f"answers, and begin anew in another folder, with engine.min_clients of 1 or more"
        )
    _check_any_taken(algorithm, directory.rounds())
    return ended


def _check_any_taken(algorithm: Algorithm, rounds: Sequence[Mapping[str, Any]]) -> None:
    """Raise RunError if every reply of every round was refused: no client has learnt anything."""
    refused = [(record["round"], *one) for record in rounds for one in record["refused"].items()]
    if refused and all(set(record["active"]) <= record["refused"].keys() for record in rounds):
        round, client, why = refused[-1]
        raise RunError(
            f"{algorithm.name}: every reply of every round was refused, so that no client has learnt anything, that of "
            f"{client} in round {round} because {why}: choose other networks in clients.models, or another method; of a "
            f"method of your own, see whether its client_step gives what reply_type says"
        )


def outcomes(
    cohort: Cohort, algorithm: Algorithm, engine: Engine, directory: RunDirectory, progress: Progress
) -> Iterator[ClientOutcome]:
    """Write every client's network, and yield how the client ended, if it was ever evaluated."""
    sizes = {network: _parameters(network) for network in set(cohort.networks.values())}
    counts = {client: len(data.train) for client, data in cohort.federation.clients.items()}
    epsilons = spent(cohort.privacy, cohort.training, counts, directory)
    for client, data in cohort.federation.clients.items():
        view = cohort.client_view(client, progress.round)
        own = client_state(algorithm, view, engine.state(client))
        directory.save_network(client, weights_of(algorithm.personal_model(own, view)))
        scores = last_scores(client, progress)
        if scores is None:
            continue
        yield ClientOutcome(
            client=client,
            model=view.network.factory,
            parameters=sizes[view.network],
            train=len(data.train),
            test=len(data.test),
            classes=tuple(data.train.labels.unique().tolist()),
            accuracy=scores.own.accuracy,
            teacher_accuracy=scores.teacher.accuracy if scores.teacher else None,
            alone_accuracy=None,
            epsilon=epsilons.get(client),
        )


def last_scores(client: str, progress: Progress) -> Scores | None:
    """Return the client's last scores; None, and a warning, if it was never evaluated, so that there is no row of it."""
    scores = progress.scores.get(client)
    if scores is None:
        LOG.warning("client %s was never evaluated: clients.csv has no row of it", client)
    return scores


def spent(privacy: Privacy | None, training: Training, counts: Mapping[str, int], directory: RunDirectory) -> dict[str, float]:
    """Return the epsilon of every client, of so many examples, after the rounds that have ended; of none without privacy.

    A client that was selected counts as having trained, for it may have even where its report was lost. One that was asked
    again in the same round has done the same step with the same noise, which tells nothing new. One that says that it has
    fewer examples than a batch, which no sound one can, counts as putting all of them into each.
    """
    if privacy is None:
        return {}
    rounds = Counter(client for record in directory.rounds() for client in record["active"])
    return {
        client: epsilon(privacy, min(training.batch_size / count, 1.0), rounds[client] * private_steps(count, training))
        for client, count in counts.items()
    }


def _parameters(network: ModelSpec) -> int:
    return sum(value.numel() for value in build(network, 0).parameters())
