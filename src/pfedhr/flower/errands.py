"""What a server asks of a client that lives in another process, and how the client does it; knows nothing of what carries it.

A client's state never leaves it. It is kept by the round that it came from, and an errand says which of them counts: the
round of the client's last answer that the server took. So a step whose answer was lost or refused is as if it had never been,
in every engine.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pfedhr.algorithm import ClientView, Setup
from pfedhr.algorithms.needs import private_training, public_data
from pfedhr.data import Examples, Public
from pfedhr.disk import write
from pfedhr.errors import PfedhrError
from pfedhr.experiment import Experiment
from pfedhr.experiment_file import parse_foreign
from pfedhr.inference import repeatable
from pfedhr.models import ModelSpec, build
from pfedhr.parcel import ParcelError, check_parcel
from pfedhr.seeding import long_number
from pfedhr.transport import LOG, Order, Report, Scores, handle

RUN = re.compile(r"[0-9a-f]{16}(-local)?")
"""What runs are called: nothing that could lead out of a client's folder."""

HEAD_LIMIT = 1_000_000
"""Bytes that the header of a client's Presence or Answer may have."""


class ErrandError(PfedhrError):
    """An errand that a client refuses, or cannot do; the message names what is wrong."""


@dataclass(frozen=True)
class Participant:
    """A client as it is on its own machine: its network and data, and the folder that its states are kept in.

    `public` may be empty where the method needs none at clients. `secret` gives, for the name of a run, what the noise of
    differential privacy is drawn from; None for a number made of the name and of one that is drawn at random once and kept in
    the folder, for the server, which knows the run's seed, could take the noise off again.
    """

    id: str
    network: ModelSpec
    train: Examples
    test: Examples
    public: Public
    folder: Path
    secret: Callable[[str], int] | None = None

    def view(self, experiment: Experiment, run: str, round: int) -> ClientView:
        """Return what the client may see in `round` of `run`."""
        privacy = experiment.privacy.privacy
        if privacy:
            secret = long_number(_kept_secret(self.folder), run) if self.secret is None else self.secret(run)
            privacy = replace(privacy, secret=secret)
        return ClientView(
            self.id,
            self.network,
            self.train,
            self.public,
            experiment.plan.training,
            privacy,
            round,
            experiment.seed,
            experiment.torch_device,
        )


def _kept_secret(folder: Path) -> int:
    """Return the number in the folder that nobody else knows; the first time it is drawn."""
    file = folder / "secret"
    # Empty if a process ended between the two steps below; short if it is of an earlier version.
    if not (file.exists() and int(file.read_text() or 0) >> 128):
        folder.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(str(secrets.randbits(256)))
    return int(file.read_text())


@dataclass(frozen=True)
class RollCall:
    """Asks a client who it is, and whether it can take part in `experiment`, a TOML text; if that is empty, who it is alone."""

    experiment: str


@dataclass(frozen=True)
class Presence:
    """Who a client is: how many examples it holds, and `problem`, why it cannot take part, if it cannot."""

    client: str
    model: str
    parameters: int
    train: int
    test: int
    problem: str


@dataclass(frozen=True)
class Errand:
    """Asks `client` for a step, if `step`, and an evaluation, if `evaluate`, in `round` of `run`.

    `since`: the round of the state that counts, 0 for none. `experiment`: a TOML text.
    """

    run: str
    experiment: str
    client: str
    round: int
    since: int
    step: bool
    evaluate: bool


@dataclass(frozen=True)
class Answer:
    """What a client has done; `metrics` is a JSON text. The reply of its step travels beside it."""

    client: str
    round: int
    metrics: str
    scores: Scores | None

    def report(self, reply: bytes | None) -> Report:
        """Return it as the loop takes it. Raises ValueError if its metrics or scores are not what a method tells."""
        if len(self.metrics) > LONGEST_METRICS:
            raise ValueError(f"metrics of {len(self.metrics)} characters")
        try:
            metrics: Any = json.loads(self.metrics)
        except RecursionError as error:
            raise ValueError("metrics that are nested too deep") from error
        if not isinstance(metrics, dict) or not all(_within(metrics.get(name, 0.0), *ends) for name, ends in _NUMBERS.items()):
            raise ValueError("metrics that are none")
        scores = (self.scores.own, self.scores.teacher) if self.scores else ()
        if not all(0 <= one.accuracy <= 1 for one in scores if one):
            raise ValueError("an accuracy that is none")
        return Report(reply, metrics, self.scores)


def _within(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and least <= value <= most


LONGEST_METRICS = 2**16
"""The most characters of metrics that a server keeps of a client's step."""
_NUMBERS = {
    "loss": (-sys.float_info.max, sys.float_info.max),
    "train_seconds": (0.0, 1e9),
    "evaluate_seconds": (0.0, 1e9),
}
"""The metrics that a server reckons with, and the least and most that they can be; neither NaN nor infinity is between."""


class States:
    """A client's states of one run on its own disk, by round."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, round: int) -> bytes | None:
        """Return the state after `round`, or None for round 0.

        Where it was lost with a disk, the client goes on from the newest older one, or as if it were new, and says so. Raises
        ErrandError, naming the file, if it is damaged.
        """
        held = sorted((at for path in self._folder.glob("*.parcel") if (at := int(path.stem)) <= round), reverse=True)
        found = held[0] if round and held else 0
        if found != round:
            LOG.warning("the state of round %d is not in %s: going on from round %d", round, self._folder, found)
        if not found:
            return None
        state = self._path(found).read_bytes()
        try:
            check_parcel(state)
        except ParcelError as error:
            raise ErrandError(
                f"{self._path(found)} is damaged ({error}): restore it, or delete it to go on from the state before it"
            ) from error
        return state

    def save(self, round: int, state: bytes, since: int) -> None:
        """Keep the state after `round`, and the one that it came from until the server has taken the answer.

        Those before are past. Later ones are not touched: a step that the server waited for in vain may end after the next one.
        """
        write(self._path(round), state)
        for path in self._folder.glob("*.parcel"):
            if int(path.stem) < since:
                path.unlink(missing_ok=True)

    def _path(self, round: int) -> Path:
        return self._folder / f"{round}.parcel"


def present(participant: Participant, call: RollCall) -> Presence:
    """Answer a roll call."""
    counts = len(participant.train), len(participant.test)
    parameters, problem = 0, ""
    if call.experiment:
        try:
            parameters = sum(value.numel() for value in build(participant.network, 0).parameters())
            experiment = parse_foreign(call.experiment, "the server's experiment")
            networks = {participant.id: participant.network}
            setup = Setup(networks, participant.public, experiment.plan.training, active=1)
            if experiment.algorithm.public_use(labelled=True).endswith("at clients"):
                public_data(experiment.algorithm, setup)
            # Of the others it knows nothing, so it takes them to be like itself.
            active = experiment.plan.active
            alike = {f"{participant.id}/{number}": participant.network for number in range(active)}
            experiment.algorithm.check(replace(setup, networks=alike, active=active))
            if privacy := experiment.privacy.privacy:
                private_training(experiment.algorithm, setup, privacy, {participant.id: len(participant.train)})
        except PfedhrError as error:
            problem = str(error)
    return Presence(participant.id, participant.network.factory, parameters, *counts, problem)


def perform(participant: Participant, errand: Errand, message: bytes | None) -> tuple[Answer, bytes | None]:
    """Do an errand; return the answer, and the reply if a step was asked for.

    Raises ErrandError if it is another client's or makes no sense, and what the step raises.
    """
    if participant.id != errand.client:
        raise ErrandError(f"this is {participant.id}, and the errand is for {errand.client}")
    if not RUN.fullmatch(errand.run) or not 0 <= errand.since < errand.round or errand.step is (message is None):
        raise ErrandError(f"an errand that makes no sense: run {errand.run[:40]!r}, round {errand.round} after {errand.since}")
    experiment = parse_foreign(errand.experiment, "the server's experiment")
    states = States(participant.folder / errand.run)
    view = participant.view(experiment, errand.run, errand.round)
    order = Order(errand.round, message, errand.evaluate)
    with repeatable():
        report, state = handle(experiment.algorithm, view, participant.test, order, states.load(errand.since))
    if state is not None:
        states.save(errand.round, state, errand.since)
    return Answer(errand.client, errand.round, json.dumps(report.metrics), report.scores), report.reply
