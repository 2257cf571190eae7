"""Who is told of what a run does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Watcher(Protocol):
    """Told of what happens; a run has a `label`, the name of its method."""

    def begin(self, label: str, rounds: int, done: int) -> None:
        """A run of `rounds` begins, or goes on after `done` of them."""
        ...

    def end_round(self, label: str, record: Mapping[str, Any]) -> None:
        """A round has ended; `record` is its line of rounds.jsonl."""
        ...


class Silent:
    """Watches a run, and says nothing."""

    def begin(self, label: str, rounds: int, done: int) -> None:
        """Do nothing."""

    def end_round(self, label: str, record: Mapping[str, Any]) -> None:
        """Do nothing."""
