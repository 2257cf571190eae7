"""What rounds.jsonl says of a round: how it is made, and how it is read."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from pfedhr.errors import PfedhrError, RunError
from pfedhr.federate import RoundResult
from pfedhr.statistics import mean_or_none

PLACED = ("loss", "declined", "train_seconds", "evaluate_seconds")
"""Metrics of a client's step that have places of their own in the record of a round."""


class MetricError(PfedhrError):
    """What a method tells of its step, and the record of a round cannot hold; the message names it and a remedy."""


def record(result: RoundResult) -> dict[str, Any]:
    """Return the line of rounds.jsonl: accuracy is over all clients, at their last evaluation; `active`: who trained now.

    `told`: what clients' steps tell beyond what has a place of its own. Raises MetricError for a method's metric that has none.
    """
    trained = {client: metrics for client, metrics in result.clients.items() if "train_seconds" in metrics}
    scored = {client: scores.own.accuracy for client, scores in sorted(result.scores.items())}
    values, active = list(scored.values()), mean_or_none(scored.get(client) for client in sorted(trained))
    spread = {"mean": statistics.fmean(values), "std": statistics.pstdev(values), "min": min(values)} if values else None
    accuracy = spread and {**spread, "active": active}
    losses = {client: metrics.get("loss") for client, metrics in trained.items()}
    beyond = {client: {name: metrics[name] for name in metrics if name not in PLACED} for client, metrics in trained.items()}
    own = {
        "round": result.round,
        "seconds": result.seconds,
        "server_seconds": result.server_seconds,
        "train_seconds": sum(metrics["train_seconds"] for metrics in trained.values()),
        "evaluate_seconds": sum(metrics.get("evaluate_seconds", 0.0) for metrics in result.clients.values()),
        "bytes_up": result.bytes_up,
        "bytes_down": result.bytes_down,
        "active": list(result.active),
        "refused": dict(result.refused),
        "evaluated": result.evaluated,
        "accuracy": accuracy,
        "declined": [client for client, metrics in trained.items() if metrics.get("declined")],
        "losses": losses,
        "told": {client: metrics for client, metrics in beyond.items() if metrics},
    }
    for client, metrics in trained.items():
        for name, value in metrics.items():
            _check(name, value, f"the method's client_step (client {client}, round {result.round})")
    for name, value in result.server.items():
        _check(name, value, f"the method's server_step (round {result.round})")
        if name in own:
            raise MetricError(
                f"the method's server_step tells of a metric {name!r}, as the record of a round calls a value of its own: give "
                f"it another name"
            )
    return own | result.server


def _check(name: str, value: Any, place: str) -> None:
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise MetricError(
            f"the metric {name!r} of {place} cannot be written as JSON ({error}): let it be a number, a text, or a list or "
            f"dict of these, as by .item() or .tolist()"
        ) from error


def lines_of(path: Path) -> list[bytes]:
    """Return the whole lines of rounds.jsonl of the run in `path`."""
    file = path / "rounds.jsonl"
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    return [line for line in lines if line.endswith(b"\n")]


def read_rounds(path: Path) -> list[dict[str, Any]]:
    """Return the records of the rounds of the run in `path`, and touch nothing. Raises RunError if one is damaged."""
    return [_read(line, f"{path / 'rounds.jsonl'} line {number}") for number, line in enumerate(lines_of(path), 1)]


def _read(line: bytes, place: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise lost(place, f"is damaged ({error})") from error
    if not isinstance(found, dict):
        raise lost(place, "is damaged (no record)")
    return found


def lost(place: Path | str, how: str) -> RunError:
    """Return the error of a run of which something is gone or damaged."""
    return RunError(f"{place} {how}, so the run cannot go on: restore it, or begin anew with another --out")
