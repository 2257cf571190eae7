"""What a method tells of its steps, in the record of a round."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import EXPERIMENT

from pfedhr.algorithms.local import Local
from pfedhr.experiment_file import parse
from pfedhr.launch import start
from pfedhr.record import MetricError, read_rounds
from pfedhr.watching import Silent

TOLD: dict[str, Any] = {}
"""What the method below tells of its server's step and, under these names, of its clients'."""
OF_CLIENTS = ("loss", "drift", "declined")


@dataclass(frozen=True)
class Telling(Local):
    name = "telling"

    def client_step(self, state: Any, message: Any, view: Any) -> Any:
        *rest, metrics = super().client_step(state, message, view)
        return *rest, metrics | {name: value for name, value in TOLD.items() if name in OF_CLIENTS}

    def server_step(self, state: Any, replies: Any, view: Any) -> Any:
        state, metrics = super().server_step(state, replies, view)
        return state, metrics | {name: value for name, value in TOLD.items() if name not in OF_CLIENTS}


def run(path: Path, **told: object) -> list[dict[str, Any]]:
    """The records of a run of three rounds of a method that tells so."""
    TOLD.clear()
    TOLD.update(told)
    text = EXPERIMENT[: EXPERIMENT.index("[algorithm]")] + f'[algorithm]\nname = "{__name__}:Telling"\n'
    start(parse(f"compare_local = false\n{text}", "the test"), path, Silent())
    return read_rounds(path)


def test_what_is_json_is_told(tmp_path: Path) -> None:
    told = {"sizes": [1, 2], "by_client": {"client00": 0.5}, "kind": "new", "none": None}
    assert [{name: one[name] for name in told} for one in run(tmp_path / "run", **told)] == [told] * 3


def test_what_clients_tell_of_their_steps_is_kept_by_client(tmp_path: Path) -> None:
    records = run(tmp_path / "run", drift=[0.5, 1])
    for record in records:
        assert record["told"] == {client: {"drift": [0.5, 1]} for client in record["active"]}
    for record in run(tmp_path / "another", declined=1):  # which has a place of its own
        assert (record["told"], record["declined"]) == ({}, record["active"])


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"bytes_up": 5}, r"server_step tells of a metric 'bytes_up'.*give it another"),
        ({"accuracy": 0.5}, r"server_step tells of a metric 'accuracy'.*give it another"),
        ({"norm": torch.ones(2)}, r"metric 'norm' of the method's server_step \(round 1\).*\.tolist\(\)"),
        ({"names": [{"a"}]}, r"metric 'names' of the method's server_step \(round 1\)"),
        ({"drift": torch.ones(1)}, r"metric 'drift' of the method's client_step \(client client0., round 1\)"),
        ({"told": 1}, r"server_step tells of a metric 'told'.*give it another"),
        ({"loss": torch.ones(1)}, r"metric 'loss' of the method's client_step \(client client0., round 1\)"),
    ],
)
def test_what_has_no_place_in_the_record_is_refused_in_the_first_round(
    told: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(MetricError, match=words):
        run(tmp_path / "run", **told)
    assert read_rounds(tmp_path / "run") == []
