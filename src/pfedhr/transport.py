"""How orders reach clients and reports come back: the seam of engines, and the client's side of it, which all share.

Messages, replies and states are parcels in every engine, so what a run gives cannot depend on which one carried them.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from torch import nn

from pfedhr.algorithm import Algorithm, ClientView, Metrics
from pfedhr.algorithms.needs import covered
from pfedhr.data import Examples
from pfedhr.errors import PfedhrError, RunError, raised_through
from pfedhr.learning import Score, TrainingError, evaluate
from pfedhr.parcel import ParcelError, pack, unpack
from pfedhr.zoo import ModelError

LOG = logging.getLogger("pfedhr")
State = TypeVar("State")


def one_line(words: object, most: int = 1000) -> str:
    """Return what a client may have written as one line of printable characters, its middle left out if it has many more.

    So nothing that a client says can look like another line of the log.
    """
    text = str(words)
    if len(text) > most:
        text = f"{text[: most // 2]} [...] {text[-most // 2 :]}"
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


@dataclass(frozen=True)
class Order:
    """What a client shall do in `round`: take a step with `message` if there is one, then be evaluated if `evaluate`."""

    round: int
    message: bytes | None
    evaluate: bool


@dataclass(frozen=True)
class Scores:
    """How a client's own network did on its test examples, and its teacher if it has one."""

    own: Score
    teacher: Score | None


@dataclass(frozen=True)
class Report:
    """What comes back from a client; `reply` is there if it took a step, `scores` if it was evaluated."""

    reply: bytes | None
    metrics: Metrics
    scores: Scores | None


Admit = Callable[[Mapping[str, bytes]], Mapping[str, str]]
"""Given all replies that have come in a round, by client, tells which are refused and why."""


class Transport(Protocol):
    """An engine: takes orders to clients, and keeps or lets them keep their states from round to round."""

    def exchange(self, outbox: Mapping[str, Order], admit: Admit) -> dict[str, Report]:
        """Return the reports that came, but those whose replies `admit` refuses; the states of these clients have moved on."""
        ...


def handle(
    algorithm: Algorithm, view: ClientView, test: Examples, order: Order, state: bytes | None
) -> tuple[Report, bytes | None]:
    """Carry out `order` on the client's side, in every engine; return its report, and its new state if that has changed.

    `state` is None for a client that has never taken part. Raises TrainingError, and ModelError where a network fails, naming
    client and round, and SettingError rather than let a method that privacy does not cover see private examples.
    """
    with failures_told(f"client {view.id} ({view.network.factory}) in round {order.round}"):
        return _handle(algorithm, view, test, order, state)


@contextmanager
def failures_told(where: str) -> Generator[None]:
    """Raise ModelError, which says `where`, for whatever a network raises on examples that it does not take."""
    try:
        yield
    except PfedhrError:
        raise
    except Exception as error:
        if nn.Module.__module__ not in raised_through(error):
            raise  # no network has failed, so it is not for the user to mend
        raise ModelError(
            f"{where}: a network failed with {type(error).__name__}: {' '.join(str(error).split())}. Choose in clients.models "
            f"one that takes all private and public examples"
        ) from error


def restored(kind: type[State], state: bytes, owner: str) -> State:
    """Return the state that `owner` was left with. Raises RunError if the method has states of another kind by now."""
    try:
        return unpack(kind, state)
    except ParcelError as error:
        raise RunError(
            f"the state of {owner} is none of this version of the method ({error}): go on with the version that the run was "
            f"begun with, or begin anew with another --out"
        ) from error


def client_state(algorithm: Algorithm, view: ClientView, state: bytes | None) -> Any:
    """Return the state that a client was left with, or that of one which was never asked. Raises what `restored` raises."""
    return algorithm.init_client(view) if state is None else restored(algorithm.client_state, state, f"client {view.id}")


def _handle(
    algorithm: Algorithm, view: ClientView, test: Examples, order: Order, state: bytes | None
) -> tuple[Report, bytes | None]:
    if view.privacy is not None:
        covered(algorithm, view.privacy)
        view = replace(view, privacy=view.privacy.drawn_for(_step(algorithm, view, order, state), view.seed))
    own = client_state(algorithm, view, state)
    reply, metrics = None, {}
    if order.message is not None:
        start = time.perf_counter()
        message = unpack(algorithm.message_type, order.message)
        try:
            own, sent, metrics = algorithm.client_step(own, message, view)
        except TrainingError as error:
            raise TrainingError(f"client {view.id} ({view.network.factory}) in round {order.round}: {error}") from error
        reply = pack(sent)
        metrics = {**metrics, "train_seconds": time.perf_counter() - start}
    scores = None
    if order.evaluate:
        start = time.perf_counter()
        scores = _score(algorithm, own, view, test)
        metrics = {**metrics, "evaluate_seconds": time.perf_counter() - start}
    return Report(reply, metrics, scores), None if reply is None else pack(own)


def _step(algorithm: Algorithm, view: ClientView, order: Order, state: bytes | None) -> str:
    """Return the name of a step, for what it draws in private: the same for the same step alone, whatever a server asks."""
    parcels = [None if one is None else hashlib.sha256(one).hexdigest() for one in (order.message, state)]
    privacy = replace(view.privacy, secret=None) if view.privacy else None
    return repr((algorithm, view.network, view.training, privacy, view.seed, str(view.device), *parcels))


def _score(algorithm: Algorithm, state: Any, view: ClientView, test: Examples) -> Scores:
    test = test.ready(view.device)

    def score(model: nn.Module) -> Score:
        return evaluate(model.to(view.device), test.inputs, test.labels)

    teacher = algorithm.teacher_model(state, view)
    return Scores(score(algorithm.personal_model(state, view)), score(teacher) if teacher else None)
