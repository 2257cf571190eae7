"""Files that are whole or not there, and folders that one process has to itself."""

from __future__ import annotations

import csv
import fcntl
import functools
import io
import os
import typing
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from pfedhr.errors import PfedhrError

UNFINISHED = ".unfinished"
"""Ends the names of files that are being written. What a killed process leaves of them counts for nothing."""


def named_path(word: str) -> Path:
    """Return the path that a user's word names, ~ understood: a shell leaves it as it is in --out=~/x. Raises PfedhrError."""
    try:
        return Path(word).expanduser()
    except RuntimeError as error:
        raise PfedhrError(f"{word}: there is no home directory of that name; write ./{word} for a folder called so") from error


def is_writable(word: str) -> bool:
    """Return whether a word can be written into files and be their name: as UTF-8, without a zero byte.

    Of a name that is no UTF-8, Python makes half characters, which are neither.
    """
    return word.encode(errors="ignore").decode() == word and "\0" not in word


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


Row = TypeVar("Row")


def csv_records(path: Path) -> list[dict[str, str]]:
    """Return the cells of a CSV file under a row of keys. Raises FileNotFoundError."""
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))


def csv_row(cls: type[Row], record: Mapping[str, str]) -> Row:
    """Return the dataclass of plain fields that a record is, as `csv_bytes` writes it; a tuple of numbers has spaces between.

    A column that the record lacks has its default. Raises KeyError or ValueError if the cells do not fit.
    """
    if None in record or None in record.values():
        raise ValueError("a row has more or fewer cells than the head")
    defaults = {item.name for item in fields(cls) if item.default is not MISSING}  # pyright: ignore[reportArgumentType]
    return cls(
        **{name: _value(kind, record[name]) for name, kind in _kinds(cls).items() if name in record or name not in defaults}
    )


@functools.cache
def _kinds(cls: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _value(kind: Any, cell: str) -> Any:
    if kind == float | None:
        return float(cell) if cell else None
    return tuple(map(int, cell.split())) if typing.get_origin(kind) is tuple else kind(cell)


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
