"""Letters to nodes and what comes back, whatever carries them."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pfedhr.errors import PfedhrError

PAUSES = 0.02, 0.5
"""Seconds between two looks for answers: the first, and the longest that it grows to."""


class FederationError(PfedhrError):
    """Too few clients came or answered; the message says how to go on."""


@dataclass(frozen=True)
class Letter:
    """What goes to a node: a parcel `head`, and beside it what the method sends, if anything."""

    node: int
    kind: Literal["roll call", "errand"]
    head: bytes
    body: bytes | None = None


@dataclass(frozen=True)
class Delivery:
    """What came back from `node` for the letter of this number; `failure` says what went wrong, if anything."""

    letter: str
    node: int
    head: bytes = b""
    body: bytes | None = None
    failure: str = ""


class Mailbox(Protocol):
    """Carries letters to nodes and their answers back."""

    def nodes(self) -> Collection[int]:
        """Return the nodes that can be reached now."""
        ...

    def send(self, letters: Sequence[Letter]) -> list[str | None]:
        """Send letters; return a number for each, or None for one that could not be sent."""
        ...

    def collect(self, letters: Collection[str]) -> list[Delivery]:
        """Return what has come for these letters, each thing once."""
        ...


def wait(pause: float) -> float:
    """Sleep, and return how long to sleep the next time."""
    time.sleep(pause)
    return min(2 * pause, PAUSES[1])
