"""Small experiments that runs are made of, and what is seen of a run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from toy import separable

from pfedhr.data import Dataset, Examples


def quarters(directory: str) -> Dataset:
    """A data set of one's own: `data.name = "toy_runs:quarters"`."""
    examples = separable(240, "quarters")
    return Dataset("quarters", Examples(examples.inputs, examples.labels), classes=4, mirror=False)


EXPERIMENT = f"""
name = "toy"
[data]
name = "{__name__}:quarters"
partition = "iid"
[clients]
count = 4
models = ["cnn1", "mlp"]
[plan]
rounds = 3
active = 2
local_epochs = 1
[algorithm]
name = "pfedhr"
preset = "paper"
groups = 2
candidates = 2
tuning_epochs = 1
probe = 8
"""


class Silent:
    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def begin(self, label: str, rounds: int, done: int) -> None:
        self.seen.append((label, done))

    def end_round(self, label: str, record: Mapping[str, Any]) -> None:
        self.seen.append((label, record["round"]))


def contents(path: Path) -> dict[str, object]:
    """Everything in a run directory, times aside."""
    found: dict[str, object] = {}
    for file in sorted(path.rglob("*")):
        if file.is_dir():
            continue
        content: object = file.read_bytes()
        if file.name == "rounds.jsonl":
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            content = [{key: value for key, value in line.items() if "seconds" not in key} for line in lines]
        found[str(file.relative_to(path))] = content
    return found


loads = itertools.count()


def shuffled(directory: str) -> Dataset:
    """A set in another order each time."""
    examples = separable(240, "quarters")
    return Dataset("shuffled", examples.take(torch.arange(240).roll(next(loads))), classes=4, mirror=False)


# As few disk operations as can be, for a crash at each of them.
SHORT = (
    EXPERIMENT.replace("rounds = 3", "rounds = 2")
    .replace("count = 4", "count = 2")
    .replace("active = 2", "active = 1")
    .replace('"cnn1", "mlp"', '"mlp"')
    .replace("tuning_epochs = 1", "tuning_epochs = 0")
)

PRIVATE = """
name = "toy"
[data]
name = "toy_runs:quarters"
partition = "iid"
[clients]
count = 4
models = ["mlp"]
[plan]
rounds = 3
active = 2
local_epochs = 2
[privacy]
noise = 1.0
[algorithm]
name = "fedavg"
"""
