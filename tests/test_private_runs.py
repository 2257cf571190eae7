"""Runs with differential privacy: what they tell, and when they are refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from test_privacy import STRONG, check
from toy import make_cohort
from toy_runs import PRIVATE

from pfedhr import cli
from pfedhr.algorithm import SettingError
from pfedhr.algorithms import ALGORITHMS
from pfedhr.algorithms.fedavg import FedAvg
from pfedhr.experiment import Experiment, ExperimentError, PrivacyOptions
from pfedhr.experiment_file import dump, override, parse
from pfedhr.launch import prepare, resume, start
from pfedhr.learning import (
    Privacy,
    epsilon,
)


@pytest.mark.parametrize("name", ["cnn1", "cnn2", "cnn3", "vit", "mlp", "mlp-wide", "mlp-deep"])
def test_networks_of_the_zoo_can_be_trained_with_privacy(name: str) -> None:
    check(FedAvg(), make_cohort(name))


@pytest.mark.parametrize("name", ["cnn4", "resnet", "mobilenet"])
def test_a_network_with_batch_norm_is_refused_by_client(name: str) -> None:
    words = rf"'{name}', which client client01 trains, .*privacy.noise = 1.0: batch norm .*group or layer norm"
    with pytest.raises(SettingError, match=words):
        check(ALGORITHMS["pfedhr"](), make_cohort("mlp", name))
    with pytest.raises(SettingError, match=f"'{name}', which client client00 trains"):
        check(ALGORITHMS["fml"](common_network=name), make_cohort("mlp"))


def test_too_few_examples_and_too_large_a_delta_are_refused_by_client() -> None:
    cohort = make_cohort("mlp")
    few = dataclasses.replace(cohort, training=dataclasses.replace(cohort.training, batch_size=25))
    with pytest.raises(SettingError, match=r"plan.batch_size = 25: client client00 has 24 .* at most 24"):
        check(FedAvg(), few)
    with pytest.raises(SettingError, match=r"privacy.delta = 0.05: client client00 has 24 .* less than 1 / 24"):
        check(FedAvg(), cohort, Privacy(1.0, 1.0, 0.05))


def test_without_opacus_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"pip install 'pfedhr\[dp\]'"):
        check(FedAvg(), make_cohort("mlp"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("noise", -1), ("noise", math.inf), ("clip", 0), ("clip", -1), ("delta", 0), ("delta", 1), ("noise", math.nan)],
)
def test_options_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(ExperimentError, match=f"privacy.{field} = {value}"):
        PrivacyOptions(**{field: value})


def test_an_experiment_without_privacy_is_written_as_before_there_was_any() -> None:
    assert list(tomllib.loads(dump(Experiment()))) == [
        *("name", "seed", "device", "workers", "compare_local"),
        *("data", "public", "clients", "plan", "algorithm"),
    ]
    private = override(Experiment(), ["--privacy.noise", "1.5"])
    assert private.privacy == PrivacyOptions(noise=1.5)
    assert tomllib.loads(dump(private))["privacy"] == {"noise": 1.5, "clip": 1.0, "delta": 1e-05}
    assert parse(dump(private), "dumped") == private
    assert override(private, ["--privacy.clip", "2"]).privacy == PrivacyOptions(1.5, 2.0)
    assert dump(override(private, ["--privacy.noise", "0"])) == dump(Experiment())
    assert parse("[privacy]\nnoise = 2", "text").privacy == PrivacyOptions(noise=2.0)
    with pytest.raises(ExperimentError, match=r"did you mean 'privacy.noise'"):
        parse("[privacy]\nnoises = 2", "text")
    with pytest.raises(ExperimentError, match=r"unknown field --privacy.noises .*did you mean '--privacy.noise'"):
        override(Experiment(), ["--privacy.noises", "2"])


class Stopped(BaseException):
    """Stands for a kill."""


class Watch:
    def __init__(self, last: int = 0) -> None:
        self.last = last

    def begin(self, label: str, rounds: int, done: int) -> None:
        pass

    def end_round(self, label: str, record: Mapping[str, Any]) -> None:
        if (label, record["round"]) == ("fedavg", self.last):
            raise Stopped


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((path / "clients.csv").read_text().splitlines()))


def test_a_run_tells_every_clients_epsilon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "toy.toml").write_text(PRIVATE)
    cli.main(["run", str(tmp_path / "toy.toml"), "--out", str(tmp_path / "run")])
    assert "epsilon" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    rows = rows_of(tmp_path / "run")
    for row in rows:
        rounds, count = sum(row["client"] in line["active"] for line in lines), int(row["train"])
        assert float(row["epsilon"]) == epsilon(STRONG, 10 / count, rounds * 2 * -(-count // 10))
    assert len({row["epsilon"] for row in rows}) > 1  # clients took part in different numbers of rounds
    assert {row["client"]: row["epsilon"] for row in rows_of(tmp_path / "run" / "local")} == {
        row["client"]: row["epsilon"] for row in rows
    }


def test_a_stopped_run_ends_with_the_same_rows(tmp_path: Path) -> None:
    experiment = parse(PRIVATE, "the test")
    start(experiment, tmp_path / "whole", Watch())
    with pytest.raises(Stopped):
        start(experiment, tmp_path / "stopped", Watch(last=2))
    resume(tmp_path / "stopped", Watch(), workers=2)
    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "whole")
    for file in sorted((tmp_path / "whole" / "models").iterdir()):
        assert file.read_bytes() == (tmp_path / "stopped" / "models" / file.name).read_bytes()


def test_without_privacy_the_column_is_empty_and_the_table_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "toy.toml").write_text(PRIVATE)
    cli.main(["run", str(tmp_path / "toy.toml"), "--out", str(tmp_path / "run"), "--privacy.noise", "0", "--plan.rounds", "1"])
    assert "epsilon" not in capsys.readouterr().out
    assert {row["epsilon"] for row in rows_of(tmp_path / "run")} == {""}
    assert "[privacy]" not in (tmp_path / "run" / "experiment.toml").read_text()


def test_nothing_is_trained_before_a_refusal(tmp_path: Path) -> None:
    experiment = override(parse(PRIVATE, "the test"), ["--clients.models", "cnn4-eighth"])
    with pytest.raises(SettingError, match="batch norm"):
        prepare(experiment)
    with pytest.raises(SettingError, match="batch norm"):
        start(experiment, tmp_path / "run", Watch())
    assert not (tmp_path / "run").exists()
