"""Words of a command line: options with values, lists, and errors about them."""

from __future__ import annotations

import itertools
import math
import tempfile
from pathlib import Path

from pfedhr.disk import named_path
from pfedhr.errors import PfedhrError

LARGEST_INPUT = 2**28
"""How many numbers an input may have that is made up to try a network on: a GB of them."""


class UsageError(PfedhrError):
    """A command line that says something else than the usage allows."""


def take(arguments: list[str], option: str) -> tuple[str | None, list[str]]:
    """Return the value of `option`, written with a space or "=", and the arguments without it.

    Raises UsageError for an option without a value, or given twice.
    """
    for place, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name != option:
            continue
        rest = arguments[:place] + arguments[place + 1 :]
        if not equals:
            value, rest = (rest[place], rest[:place] + rest[place + 1 :]) if place < len(rest) else ("", rest)
        if not value:
            raise UsageError(f"{option} needs a value")
        if any(other.partition("=")[0] == option for other in rest):
            raise UsageError(f"{option} is given twice")
        return value, rest
    return None, arguments


def words(option: str, value: str) -> list[str]:
    """Return the words of a list with commas. Raises UsageError if one is empty or there twice."""
    found = value.split(",")
    if not all(found) or len(set(found)) < len(found):
        raise UsageError(f"{option} {value}: words with commas between them were expected, each once")
    return found


def numbers(option: str, value: str) -> list[int]:
    """Return the whole numbers of a list with commas, none below 0. Raises UsageError if one is there twice."""
    found = [int(word) for word in words(option, value) if word.isdecimal()]
    if len(set(found)) < value.count(",") + 1:
        raise UsageError(f"{option} {value}: whole numbers with commas between them were expected, each once, as in 0,1,2")
    return found


def count(option: str, value: str | None) -> int:
    """Return the number of an option that is at least 1, and 1 if it is not given. Raises UsageError."""
    if value is not None and not (value.isdecimal() and int(value)):
        raise UsageError(f"{option} {value}: a whole number from 1 was expected")
    return int(value or 1)


def input_shape(option: str, value: str) -> tuple[int, ...]:
    """Return the shape of an input, as in 3,32,32. Raises UsageError for sizes below 1, or too many numbers to make one up."""
    sizes = [int(word) if word.isdecimal() else 0 for word in value.split(",")]
    if min(sizes) < 1:
        raise UsageError(f"{option} {value}: whole numbers from 1 with commas between them were expected, as in 3,32,32")
    if math.prod(sizes) > LARGEST_INPUT:
        raise UsageError(f"{option} {value}: an input of {math.prod(sizes):,} numbers; give at most {LARGEST_INPUT:,}")
    return tuple(sizes)


def folder(value: str | None, otherwise: str) -> Path:
    """Return the folder of a study that --out names, or another.

    Raises UsageError if anything else is there, or if nothing can be written there.
    """
    path = named_path(value or otherwise)
    if path.exists() and not path.is_dir():
        raise UsageError(f"--out {path}: that is a file; name a folder")
    study = (path / "cells").is_dir() or any(path.glob("cells.csv")) or any(path.glob("*/*/cells.csv"))  # its runs may be gone
    if path.exists() and any(path.iterdir()) and not study:
        raise UsageError(f"--out {path}: that folder holds something else than a study; name another")
    check_writable(path)
    return path


def free_folder(name: str) -> Path:
    """Return runs/NAME, or runs/NAME-2 and so on: the first that does not exist."""
    candidates = (Path("runs", name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    return next(path for path in candidates if not path.exists())


def check_writable(path: Path) -> None:
    """Raise UsageError if no folder can be made and filled at `path`; nothing of the trial is left."""
    there = next(place for place in (path, *path.parents) if place.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise UsageError(f"--out {path}: {there} cannot be written to ({error.strerror}); name another folder") from error
