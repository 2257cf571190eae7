"""Files that are whole or not there, and folders that one process has to itself."""

from __future__ import annotations

import csv
import fcntl
import io
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pfedhr.errors import PfedhrError

UNFINISHED = ".unfinished"
"""Ends the names of files that are being written. What a killed process leaves of them counts for nothing."""


def write(path: Path, content: bytes) -> None:
    """Give `path` this content: all of it, or, if the process ends before, none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + UNFINISHED)
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def csv_bytes(records: Sequence[Mapping[str, object]]) -> bytes:
    """Return records of equal keys, at least one, as CSV under a row of the keys; None becomes an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


class LockedError(PfedhrError):
    """A folder that another process has to itself."""


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Keep other processes from running in `path` inside the block. Raises LockedError if one does."""
    folder = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(f"another process is running in {path}: wait for it, or end it") from error
        yield
    finally:
        os.close(folder)  # which also unlocks it, as a kill does
