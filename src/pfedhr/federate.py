"""The round loop. There is one; engines differ in their transport only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from pfedhr.algorithm import Algorithm, Metrics, ServerView
from pfedhr.inference import one_thread
from pfedhr.parcel import pack, unpack
from pfedhr.seeding import generator
from pfedhr.transport import Order, Scores, Transport


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

    `evaluated` tells whether `scores` are of this round. `seconds` is all of the round, `server_seconds` the server's step.
    """

    round: int
    active: tuple[str, ...]
    scores: Mapping[str, Scores]
    evaluated: bool
    clients: Mapping[str, Metrics]
    server: Metrics
    bytes_up: int
    bytes_down: int
    seconds: float
    server_seconds: float
    progress: Progress


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
    server = unpack(algorithm.server_state, progress.server)
    orders = {client: Order(round, pack(algorithm.message(server, client)), evaluate) for client in active}
    unscored = progress.unscored | set(active)
    if evaluate:  # a client that has not changed since it was scored is left in peace
        orders |= {client: Order(round, None, True) for client in sorted(unscored - set(active))}
    reports = transport.exchange(orders)

    scores = {**progress.scores, **{client: report.scores for client, report in reports.items() if report.scores}}
    replies = {client: report.reply for client, report in reports.items() if report.reply is not None}
    server_start = time.perf_counter()
    with one_thread():
        received = {client: unpack(algorithm.reply_type, reply) for client, reply in replies.items()}
        server, metrics = algorithm.server_step(server, received, view)
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
        bytes_up=sum(map(len, replies.values())),
        bytes_down=sum(len(order.message or b"") for order in orders.values()),
        seconds=time.perf_counter() - start,
        server_seconds=server_seconds,
        progress=after,
    )
