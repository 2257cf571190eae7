"""What a finished run leaves, and what it tells of private examples."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from toy_runs import EXPERIMENT, Silent

from pfedhr.algorithms.local import Local
from pfedhr.data import Dataset, Examples
from pfedhr.experiment_file import parse
from pfedhr.launch import prepare, start
from pfedhr.models import build
from pfedhr.run import RunError
from pfedhr.zoo import ModelError


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((path / "clients.csv").read_text().splitlines()))


def test_a_run_leaves_what_it_should(undisturbed: Path) -> None:
    experiment = parse(EXPERIMENT, "the test")
    assert parse((undisturbed / "experiment.toml").read_text(), "the run") == experiment
    lines = [json.loads(line) for line in (undisturbed / "rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3]
    wanted = {"seconds", "server_seconds", "bytes_up", "bytes_down", "accuracy", "candidates", "groups", "teacher_sizes"}
    assert all(wanted <= set(line) for line in lines)
    assert all(set(line["accuracy"]) == {"mean", "std", "min", "active"} for line in lines)
    rows = rows_of(undisturbed)
    assert [row["client"] for row in rows] == ["client00", "client01", "client02", "client03"]
    assert [row["model"] for row in rows] == ["cnn1", "mlp", "cnn1", "mlp"]
    accuracies = [float(row["accuracy"]) for row in rows]
    assert sum(accuracies) / 4 == pytest.approx(lines[-1]["accuracy"]["mean"])
    assert min(accuracies) == lines[-1]["accuracy"]["min"]
    active = [float(row["accuracy"]) for row in rows if row["client"] in lines[-1]["active"]]
    assert 0 < len(active) < 4
    assert sum(active) / len(active) == pytest.approx(lines[-1]["accuracy"]["active"])
    alone = {row["client"]: row["accuracy"] for row in rows_of(undisturbed / "local")}
    assert {row["client"]: row["alone_accuracy"] for row in rows} == alone
    assert all(int(row["train"]) + int(row["test"]) == 54 for row in rows)  # 240, less a tenth, over four


def test_the_networks_on_disk_are_the_ones_that_were_scored(undisturbed: Path) -> None:
    from pfedhr.launch import prepare
    from pfedhr.learning import evaluate

    experiment = parse(EXPERIMENT, "the test")
    cohort = prepare(experiment)
    rows = {row["client"]: row for row in rows_of(undisturbed)}
    for client, network in cohort.networks.items():
        model = build(network, 0)
        model.load_state_dict(safetensors.torch.load_file(undisturbed / "models" / f"{client}.safetensors"))
        test = cohort.federation.clients[client].test.ready(torch.device("cpu"))
        assert evaluate(model, test.inputs, test.labels).accuracy == float(rows[client]["accuracy"])


def test_a_run_whose_replies_were_all_refused_has_no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Local, "faults", lambda self, server, replies, view: dict.fromkeys(replies, "it is of no use"))
    with pytest.raises(
        RunError, match=r"local: every reply of every round was refused.*client0\d in round 3 because it is of no"
    ):
        start(parse(EXPERIMENT, "the test"), tmp_path / "run", Silent())


def small_words(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Embedding(29, classes), nn.Flatten(), nn.Linear(3 * classes, classes))


def sentences(directory: str) -> Dataset:
    """Sentences of three of 30 words, of which the last is said once."""
    words = torch.arange(240 * 3).view(240, 3) % 29
    words[77, 1] = 29
    return Dataset("words", Examples(words, torch.arange(240) % 4), classes=4, mirror=False)


def test_a_number_that_one_example_alone_holds_is_tried_before_any_training() -> None:
    text = EXPERIMENT.replace("toy_runs:quarters", f"{__name__}:sentences")
    experiment = parse(text.replace('"cnn1", "mlp"', f'"{__name__}:small_words"'), "the test")
    with pytest.raises(ModelError, match=r"small_words' failed on the examples of the least and the largest .*IndexError"):
        prepare(experiment)


def columns(directory: str) -> Dataset:
    """Rows of three measurements and the number of a category, in halves, or in the floats that numpy has."""
    rows = torch.cat([torch.randn(240, 3), torch.arange(240)[:, None] % 5], 1)
    return Dataset("columns", Examples(rows.to(getattr(torch, directory)), torch.arange(240) % 4), classes=4, mirror=False)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_rows_of_other_floats_are_tried_as_networks_take_them(dtype: str) -> None:
    text = EXPERIMENT.replace('"toy_runs:quarters"', f'"{__name__}:columns"\ndir = "{dtype}"').replace('"cnn1", "mlp"', '"mlp"')
    cohort = prepare(parse(text, "the test"))
    assert len(cohort.federation.extremes) > 1


def rare(directory: str) -> Dataset:
    """A set one of whose two classes has one example in 50."""
    return Dataset("rare", Examples(torch.randn(500, 4), (torch.arange(500) % 50 == 0).long()), classes=2, mirror=False)


def test_a_run_tells_that_most_private_examples_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    text = EXPERIMENT.replace("toy_runs:quarters", f"{__name__}:rare").replace('"cnn1", "mlp"', '"mlp"')
    prepare(parse(text, "the test"))
    assert not caplog.messages
    for _ in range(2):
        prepare(parse(text.replace('"iid"', '"classes"'), "the test"))
    assert [message.partition(":")[0] for message in caplog.messages] == ["clients hold 16 of 450 private examples"]
