"""The engine without a network: clients one after the other, or side by side in processes, with the same numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import torch

from pfedhr.algorithm import Algorithm, ClientView, Map, ServerView
from pfedhr.data import Federation
from pfedhr.inference import repeatable
from pfedhr.learning import Privacy, Training
from pfedhr.models import ModelSpec, build
from pfedhr.parcel import pack, unpack
from pfedhr.processes import Processes
from pfedhr.transport import Admit, Order, Report, failures_told, handle

Job = TypeVar("Job")
Result = TypeVar("Result")


class Store(Protocol):
    """Where the states of clients stay between rounds."""

    def load(self, client: str) -> bytes | None:
        """Return the state that was saved last, if any."""
        ...

    def save(self, client: str, state: bytes) -> None:
        """Keep a new state."""
        ...


class MemoryStore:
    """States in memory."""

    def __init__(self) -> None:
        self._states: dict[str, bytes] = {}

    def load(self, client: str) -> bytes | None:
        """Return the state that was saved last, if any."""
        return self._states.get(client)

    def save(self, client: str, state: bytes) -> None:
        """Keep a new state."""
        self._states[client] = state


@dataclass(frozen=True)
class Cohort:
    """All that it takes to play any client, or to do work of the server, in one process, whatever the method."""

    federation: Federation
    networks: Mapping[str, ModelSpec]
    training: Training
    privacy: Privacy | None
    seed: int
    device: torch.device

    def client_view(self, client: str, round: int) -> ClientView:
        """Return what `client` may see in `round`."""
        return ClientView(
            id=client,
            network=self.networks[client],
            train=self.federation.clients[client].train,
            public=self.federation.public,
            training=self.training,
            privacy=self.privacy,
            round=round,
            seed=self.seed,
            device=self.device,
        )

    def build_networks(self) -> None:
        """Build every network once: a user's module may register layers, which any process may meet in a teacher."""
        for network in set(self.networks.values()):
            build(network, 0)

    def server_view(self, round: int, map: Map) -> ServerView:
        """Return what the server may see in `round`."""
        data = self.federation
        return ServerView(data.public, data.classes, data.mirror, round, self.seed, self.device, map)


class Workers:
    """Runs tasks on a cohort one after the other in this process, or side by side in `count` processes.

    A task runs on one thread either way, so its numbers are the same bit for bit. Close it, or use it in a `with` block, to
    end the processes; they also end when this process does, however it ends.
    """

    def __init__(self, cohort: Cohort, count: int = 1) -> None:
        self.cohort = cohort
        self._processes: Processes | None = None
        if count > 1:
            # The data goes as one parcel: tensors one by one would each take a file descriptor of shared memory.
            rest = {item.name: getattr(cohort, item.name) for item in fields(cohort) if item.name != "federation"}
            self._processes = Processes(count, _hold_cohort, pack(cohort.federation), rest)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._processes:
            self._processes.close(abandon=kind is not None)

    def run(self, task: Callable[..., Result], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
        """Yield `task(cohort, *each)` for each of the arguments in order, as `Processes.run` does."""
        if self._processes:
            yield from self._processes.run(_with_cohort, ((task, each) for each in arguments))
            return
        with repeatable():
            for each in arguments:
                yield task(self.cohort, *each)


class InProcess:
    """The engine without a network: a method's clients and its server's work on `workers`, clients' states in `store`."""

    def __init__(self, algorithm: Algorithm, workers: Workers, store: Store | None = None) -> None:
        self._algorithm = algorithm
        self._workers = workers
        self._store = store or MemoryStore()
        self._seconds: dict[str, float] = {}

    @property
    def clients(self) -> list[str]:
        """All clients, in the order that selections draw from."""
        return list(self._workers.cohort.federation.clients)

    def state(self, client: str) -> bytes | None:
        """Return the client's state, or None if it has never taken part."""
        return self._store.load(client)

    def exchange(self, outbox: Mapping[str, Order], admit: Admit) -> dict[str, Report]:
        """Return every client's report, but those whose replies are refused, in the order of the outbox."""
        # The slowest of their last rounds go first, so that no process is left with a long one at the end.
        ordered = sorted(outbox, key=lambda client: -self._seconds.get(client, 0.0))
        tasks = ((self._algorithm, client, outbox[client], self._store.load(client)) for client in ordered)
        done = dict(zip(ordered, self._workers.run(_step, tasks), strict=True))
        for client, (report, _) in done.items():
            self._seconds[client] = report.metrics.get("train_seconds", self._seconds.get(client, 0.0))
        replies = {client: done[client][0].reply for client in outbox}
        refused = admit({client: reply for client, reply in replies.items() if reply is not None})
        for client, (_, state) in done.items():
            if state is not None and client not in refused:
                self._store.save(client, state)
        return {client: done[client][0] for client in outbox if client not in refused}

    def server_view(self, round: int) -> ServerView:
        """Return what the server may see in `round`, its work mapped over the workers."""

        def over_workers(work: Callable[[Job, ServerView], Result], jobs: Sequence[Job], result: type[Result]) -> list[Result]:
            tasks = [(work, type(job), pack(job), round) for job in jobs]
            # The largest first, for the reason that `exchange` has; the results in the order of the jobs.
            order = sorted(range(len(tasks)), key=lambda place: -len(tasks[place][2]))
            done = dict(zip(order, self._workers.run(_work, [tasks[place] for place in order]), strict=True))
            return [unpack(result, done[place]) for place in range(len(tasks))]

        return self._workers.cohort.server_view(round, over_workers)


def _step(cohort: Cohort, algorithm: Algorithm, client: str, order: Order, state: bytes | None) -> tuple[Report, bytes | None]:
    view = cohort.client_view(client, order.round)
    return handle(algorithm, view, cohort.federation.clients[client].test, order, state)


def _work(cohort: Cohort, work: Callable[[Any, ServerView], Any], kind: type[Any], job: bytes, round: int) -> bytes:
    view = sequential(lambda map: cohort.server_view(round, map))
    with failures_told(f"the server in round {round}"):
        return pack(work(unpack(kind, job), view))


def sequential(view_with: Callable[[Map], ServerView]) -> ServerView:
    """Return the view of a server whose work is done one after the other in this process."""

    def one_by_one(work: Callable[[Job, ServerView], Result], jobs: Sequence[Job], result: type[Result]) -> list[Result]:
        return [work(job, view) for job in jobs]

    view = view_with(one_by_one)
    return view


_cohort: Cohort | None = None
"""What a worker process was started with."""


def _hold_cohort(federation: bytes, rest: dict[str, Any]) -> None:
    global _cohort
    _cohort = Cohort(federation=unpack(Federation, federation), **rest)


@functools.cache
def _held_cohort() -> Cohort:
    """Return the cohort, its networks built, in the first task: what is raised where a process begins is lost."""
    assert _cohort is not None
    _cohort.build_networks()
    return _cohort


def _with_cohort(task: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    return task(_held_cohort(), *arguments)
