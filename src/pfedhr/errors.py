"""What all errors of this package that a user can mend have in common, and where one is left."""

import difflib
from collections.abc import Iterable
from traceback import walk_tb

FAILURE = "failure.txt"
"""Holds, in a run's directory, why it could not go on."""


class PfedhrError(Exception):
    """An error whose message is for the user: it names the value, the place and a remedy."""


class RunError(PfedhrError):
    """A run directory that is in the way, or is not one; the message names it and a remedy."""


def nearest(name: str, known: Iterable[str], before: str = "") -> str:
    """Return "did you mean ...? " with the known name that is nearest to `name`, `before` it, or nothing if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {before + near[0]!r}? " if near else ""


def raised_through(error: Exception) -> list[str]:
    """Return the names of the modules whose code a caught `error` came through, that which raised it last."""
    return [str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__)]
