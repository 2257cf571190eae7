"""The run directory: when a run may begin or go on in it, and what an experiment is there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from toy_runs import EXPERIMENT, Silent, contents

from pfedhr.algorithm import SettingError
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.experiment import Experiment
from pfedhr.experiment_file import dump, parse
from pfedhr.launch import resume, start
from pfedhr.models import ModelSpec
from pfedhr.run import RunDirectory, RunError
from pfedhr.stored import stored_experiment


def test_a_finished_run_resumed_stays_as_it_is(undisturbed: Path) -> None:
    before = contents(undisturbed)
    watch = Silent()
    outcomes = resume(undisturbed, watch)
    assert watch.seen == [("local", 3), ("pfedhr", 3)]
    assert contents(undisturbed) == before
    assert len(outcomes) == 4


def test_reading_a_run_touches_nothing(undisturbed: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(undisturbed, path)
    shutil.rmtree(path / "checkpoint")
    (path / "mine.unfinished").write_text("mine")
    before = contents(path)
    stored_experiment(path)
    assert contents(path) == before
    # The checkpoint is gone, the results are not: going on would write over them.
    with pytest.raises(RunError, match=r"latest\.parcel is missing"):
        resume(path, Silent())
    assert {name: value for name, value in contents(path).items() if not name.startswith("local")} == {
        name: value for name, value in before.items() if not name.startswith("local")
    }


def test_a_directory_in_use_is_left_alone(undisturbed: Path, tmp_path: Path) -> None:
    before = contents(undisturbed)
    with pytest.raises(RunError, match=r"not empty.*--resume"):
        start(parse(EXPERIMENT, "the test"), undisturbed, Silent())
    assert contents(undisturbed) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        RunDirectory.create(tmp_path / "file", "")
    assert (tmp_path / "file").read_text() == "mine"


def test_nothing_is_written_for_an_experiment_that_cannot_run(tmp_path: Path) -> None:
    broken = EXPERIMENT.replace("groups = 2", "groups = 9")
    with pytest.raises(SettingError, match="groups = 9"):
        start(parse(broken, "the test"), tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


def test_what_is_no_run_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no experiment\.toml"):
        stored_experiment(tmp_path)


def test_the_experiment_on_disk_is_complete(undisturbed: Path) -> None:
    text = (undisturbed / "experiment.toml").read_text()
    assert dump(stored_experiment(undisturbed)) == text
    assert "repeat_groups = false" in text


def test_a_run_may_leave_out_learning_alone(tmp_path: Path) -> None:
    text = EXPERIMENT.replace('name = "toy"', 'name = "toy"\ncompare_local = false')
    outcomes = start(parse(text, "the test"), tmp_path / "run", Silent())
    assert all(outcome.alone_accuracy is None for outcome in outcomes)
    assert not (tmp_path / "run" / "local").exists()


def test_experiments_compare_by_value() -> None:
    assert parse(EXPERIMENT, "a") == parse(EXPERIMENT, "b")
    assert Experiment(algorithm=Local()) != Experiment(algorithm=PFedHR.paper())
    assert ModelSpec("mlp", (1,), 2) == ModelSpec("mlp", (1,), 2)
