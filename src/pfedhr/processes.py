"""Processes of one thread each that work side by side, and end when the process that began them does, however it ends."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.resource_tracker import ensure_running
from typing import Any, TypeVar

from pfedhr.errors import PfedhrError
from pfedhr.inference import be_repeatable

AHEAD = 8
"""How many tasks a process may have waiting."""

Result = TypeVar("Result")


class WorkerError(PfedhrError):
    """Work in a process that broke, whatever the work was."""


class Processes:
    """`count` processes; each calls `prepare(*arguments)` once, before its first task. Use it in a `with` block."""

    def __init__(self, count: int, prepare: Callable[..., None] | None = None, *arguments: Any) -> None:
        self._count = count
        # Spawned, not forked: a fork would copy the locks of torch's threads in whatever state they are.
        context = get_context("spawn")
        watched, self._lifeline = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(count, context, _begin, (watched, prepare, arguments))

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.close(abandon=kind is not None)

    def close(self, abandon: bool = False) -> None:
        """End the processes, once they have done what they are at or, if it is to be abandoned, at once."""
        if abandon:
            self._lifeline.close()
        self._pool.shutdown(cancel_futures=True)
        self._lifeline.close()

    def run(self, task: Callable[..., Result], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
        """Yield `task(*each)` for each of the arguments in order; task and arguments must be picklable.

        Arguments are taken as they are needed, so that not all have to be in memory at once. Raises WorkerError if a process
        ends, or if a task raises what is not for the user.
        """
        waiting: deque[Future[Result]] = deque()
        try:
            for each in arguments:
                with _uninterrupted():
                    waiting.append(self._pool.submit(_carry_out, task, each))
                if len(waiting) == AHEAD * self._count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise WorkerError(
                "a worker process ended before its work did, most often for want of memory: go on with fewer workers"
            ) from error
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def _uninterrupted() -> Generator[None]:
    """Keep Ctrl-C, which is the main process's to answer, from the processes that are started inside the block, for good.

    Signals that are blocked when a process starts are blocked in it from its first moment, while it imports torch too.
    """
    ensure_running()  # else it is started inside the block, and unblocks what is blocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(lifeline: Connection, prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    be_repeatable()
    if prepare:
        prepare(*arguments)


def _end_with(lifeline: Connection) -> None:
    """End this process when the other end of `lifeline` is closed, as it also is when the main process is killed."""
    lifeline.poll(None)
    os._exit(1)


def _carry_out(task: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    try:
        return task(*arguments)
    except PfedhrError:
        raise
    except Exception as error:  # it may be of a class that cannot be carried to another process
        raise WorkerError(f"a worker failed with {type(error).__name__}: {error}\n{traceback.format_exc()}") from None
