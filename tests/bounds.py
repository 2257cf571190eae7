"""Bounds on what a piece of work takes."""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

LINUX = Path("/proc/self/clear_refs")
"""Where Linux is told to forget the most memory that this process has held; other systems have no such place."""


@contextmanager
def seconds_within(limit: float, what: object = "") -> Generator[None]:
    """Fail if the block keeps the process at work for `limit` seconds, those of others on the machine apart."""
    before = time.process_time()
    yield
    taken = time.process_time() - before
    assert taken < limit, f"{taken} seconds, {limit} allowed {what}"


@contextmanager
def memory_within(limit: int) -> Generator[None]:
    """Fail if the process holds at some moment of the block `limit` bytes more than before it, freed since or not.

    Linux can forget the most that a process has held so far; elsewhere that hides what a block takes below it.
    """
    if LINUX.exists():
        LINUX.write_text("5")
    before = _most()
    yield
    assert _most() - before < limit, f"{_most() - before} bytes of memory, {limit} allowed"


def _most() -> int:
    """Return the most bytes that this process has held so far."""
    if LINUX.exists():
        (held,) = re.findall(r"VmHWM:\s*(\d+) kB", LINUX.with_name("status").read_text())
        return int(held) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
