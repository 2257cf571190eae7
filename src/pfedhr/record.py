"""What rounds.jsonl says of a round."""

from __future__ import annotations

import statistics
from typing import Any

from pfedhr.federate import RoundResult
from pfedhr.statistics import mean_or_none


def record(result: RoundResult) -> dict[str, Any]:
    """Return the line of rounds.jsonl: accuracy is over all clients, at their last evaluation; `active`: who trained now."""
    trained = {client: metrics for client, metrics in result.clients.items() if "train_seconds" in metrics}
    scored = {client: scores.own.accuracy for client, scores in sorted(result.scores.items())}
    values, active = list(scored.values()), mean_or_none(scored.get(client) for client in sorted(trained))
    spread = {"mean": statistics.fmean(values), "std": statistics.pstdev(values), "min": min(values)} if values else None
    accuracy = spread and {**spread, "active": active}
    return {
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
        "losses": {client: metrics.get("loss") for client, metrics in trained.items()},
        **result.server,
    }
