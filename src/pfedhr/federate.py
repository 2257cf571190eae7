"""The round loop. There is one; engines differ in their transport only."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pfedhr.algorithm import Algorithm, Metrics, ServerView
from pfedhr.inference import repeatable
from pfedhr.parcel import ParcelError, computable, pack, tensors_in, unpack
from pfedhr.seeding import generator
from pfedhr.transport import LOG, Order, Scores, Transport, failures_told, one_line, restored

REPLY_HEADER = 16_000_000
"""Bytes of a reply's header at most: twice those of the longest blueprint, which is written there with its quotes escaped."""


@dataclass(frozen=True)
class Schedule:
    """How many rounds, how many clients take part in each, and every how many rounds all are evaluated (the last always)."""

    rounds: int
    active: int
    evaluate_every: int = 1


@dataclass(frozen=True)
class Progress:
    """All that the loop needs to go on after `round`, besides the clients' states.

    `server`: the server's state as a parcel; `scores`: every client's last ones; `unscored`: the clients that have changed
    since, or were never scored.
    """

    round: int
    server: bytes
    scores: Mapping[str, Scores]
    unscored: frozenset[str]


@dataclass(frozen=True)
class RoundResult:
    """One round: who took part, every client's last scores, the metrics of both sides, parcels' bytes, and seconds.

    `refused`: whose replies were of no use, and why; these clients are as they were before. `evaluated` tells whether `scores`
    are of this round. `seconds` is all of the round, `server_seconds` the server's step.
    """

    round: int
    active: tuple[str, ...]
    scores: Mapping[str, Scores]
    evaluated: bool
    clients: Mapping[str, Metrics]
    server: Metrics
    refused: Mapping[str, str]
    bytes_up: int
    bytes_down: int
    seconds: float
    server_seconds: float
    progress: Progress


class Admission:
    """Opens the replies of a round and refuses those that the server's step could not use, with a warning each.

    `taken` and `refused` are of the last call: the replies by client, and why others are not among them.
    """

    def __init__(self, algorithm: Algorithm, server: Any, view: ServerView) -> None:
        self._algorithm, self._server, self._view = algorithm, server, view
        self.taken: dict[str, Any] = {}
        self.refused: dict[str, str] = {}

    def __call__(self, replies: Mapping[str, bytes]) -> dict[str, str]:
        """Return why replies are refused, by client, for those that are."""
        opened, refused = dict[str, Any](), dict[str, str]()
        for client, reply in replies.items():
            try:
                opened[client] = unpack(self._algorithm.reply_type, reply, REPLY_HEADER)
            except ParcelError as error:
                refused[client] = str(error)
        # Minus infinity has a place: attention masks are made of it.
        broken = [client for client, reply in opened.items() if any(not _sound(value) for value in tensors_in(reply))]
        refused |= dict.fromkeys(broken, "it holds values that are not finite")
        with repeatable():
            refused |= self._algorithm.faults(self._server, _without(opened, refused), self._view)
        refused = {client: one_line(why) for client, why in refused.items()}
        for client, why in refused.items():
            LOG.warning("the reply of client %s in round %d is refused: %s", client, self._view.round, why)
        self.taken, self.refused = _without(opened, refused), refused
        return refused


def _sound(value: Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor positive infinity."""
    if not value.is_floating_point() or not value.numel():
        return True
    return bool(computable(value).max() < math.inf)  # the largest of NaN and others is NaN


def _without(one: Mapping[str, Any], others: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key not in others}


def select(clients: Sequence[str], active: int, seed: int, round: int) -> tuple[str, ...]:
    """Return the clients that take part in `round`, sorted; the same for every method."""
    chosen = torch.randperm(len(clients), generator=generator(seed, round, "selection"))[:active]
    return tuple(sorted(clients[int(place)] for place in chosen))


def start_progress(algorithm: Algorithm, view: ServerView, clients: Sequence[str]) -> Progress:
    """Return where a run stands before its first round."""
    return Progress(0, pack(algorithm.init_server(view)), {}, frozenset(clients))


def federate(
    algorithm: Algorithm,
    transport: Transport,
    server_view: Callable[[int], ServerView],
    clients: Sequence[str],
    schedule: Schedule,
    seed: int,
    progress: Progress | None = None,
) -> Iterator[RoundResult]:
    """Run the rounds after `progress`, or all, and yield each as it ends.

    `server_view` gives what the server may see in a round. A client whose report does not come is left as it was.
    """
    progress = progress or start_progress(algorithm, server_view(0), clients)
    for round in range(progress.round + 1, schedule.rounds + 1):
        evaluate = round % schedule.evaluate_every == 0 or round == schedule.rounds
        active = select(clients, schedule.active, seed, round)
        result = _run_round(algorithm, transport, server_view(round), active, progress, evaluate)
        progress = result.progress
        yield result


def _run_round(
    algorithm: Algorithm,
    transport: Transport,
    view: ServerView,
    active: tuple[str, ...],
    progress: Progress,
    evaluate: bool,
) -> RoundResult:
    start = time.perf_counter()
    round = view.round
    server = restored(algorithm.server_state, progress.server, "the server")
    orders = {client: Order(round, pack(algorithm.message(server, client)), evaluate) for client in active}
    unscored = progress.unscored | set(active)
    if evaluate:  # a client that has not changed since it was scored is left in peace
        orders |= {client: Order(round, None, True) for client in sorted(unscored - set(active))}
    admission = Admission(algorithm, server, view)
    reports = transport.exchange(orders, admission)

    scores = {**progress.scores, **{client: report.scores for client, report in reports.items() if report.scores}}
    replies = {client: report.reply for client, report in reports.items() if report.reply is not None}
    server_start = time.perf_counter()
    metrics: Metrics = {}
    if taken := {client: admission.taken[client] for client in replies}:  # else the server has nothing to go by
        with failures_told(f"the server in round {round}"), repeatable():
            server, metrics = algorithm.server_step(server, taken, view)
    server_seconds = time.perf_counter() - server_start
    unscored = frozenset(unscored - {client for client, report in reports.items() if report.scores})
    after = Progress(round, pack(server), scores, unscored)
    return RoundResult(
        round=round,
        active=active,
        scores=scores,
        evaluated=evaluate,
        clients={client: report.metrics for client, report in reports.items()},
        server=metrics,
        refused=admission.refused,
        bytes_up=sum(map(len, replies.values())),
        bytes_down=sum(len(order.message or b"") for order in orders.values()),
        seconds=time.perf_counter() - start,
        server_seconds=server_seconds,
        progress=after,
    )
