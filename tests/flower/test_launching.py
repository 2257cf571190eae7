from __future__ import annotations

import ast
import importlib.util
import runpy
import sys
import tomllib
from pathlib import Path

import pytest
import safetensors.torch
import torch
from flower.postbox import Postbox
from toy_runs import EXPERIMENT

from pfedhr.cli import main
from pfedhr.disk import LockedError, locked
from pfedhr.errors import FAILURE
from pfedhr.experiment import Experiment
from pfedhr.experiment_file import dump, load_experiment, override, parse
from pfedhr.flower import launching
from pfedhr.flower.mailbox import FederationError
from pfedhr.flower.simulation import DIRECTORY, simulated_server
from pfedhr.launch import make_cohort
from pfedhr.run import RunDirectory, run_name
from pfedhr.watching import Silent


def test_a_new_app_is_complete_and_is_not_written_over_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app = tmp_path / "app"
    main(["flower", "new", str(app)])
    assert {path.name for path in app.iterdir()} == {"LICENSE", "pyproject.toml", "federation.py", "experiment.toml"}
    assert capsys.readouterr().out.count(str(app)) == 4
    project = tomllib.loads((app / "pyproject.toml").read_text())
    assert project["tool"]["flwr"]["app"]["components"] == {"serverapp": "federation:server", "clientapp": "federation:client"}
    names = {
        target.id
        for node in ast.parse((app / "federation.py").read_text()).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert {"server", "client"} <= names
    assert load_experiment(str(app / "experiment.toml")).engine.min_clients == 2
    (app / "federation.py").write_text("mine")
    with pytest.raises(SystemExit):
        main(["flower", "new", str(app)])
    assert "is not empty" in capsys.readouterr().err
    assert (app / "federation.py").read_text() == "mine"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what Flower imports
def test_clients_of_a_new_app_have_features_of_the_width_that_the_experiment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, home = tmp_path / "app", tmp_path / "client"
    main(["flower", "new", str(app)])
    (app / "experiment.toml").write_text(dump(override(load_experiment("demo"), ["--clients.features", "16"])))
    home.mkdir()
    inputs, labels = torch.zeros(3, 1, 28, 28, dtype=torch.uint8), torch.arange(3)
    held = {f"{part}_inputs": inputs.clone() for part in ("train", "test")}
    held |= {f"{part}_labels": labels.clone() for part in ("train", "test")}
    safetensors.torch.save_file(held, home / "data.safetensors")
    monkeypatch.setattr(sys, "path", [*sys.path])
    federation = runpy.run_path(str(app / "federation.py"))
    for node in ({"home": str(home)}, {"partition-id": 1}):
        assert federation["load_client"]({"server-home": ""}, node).network.features == 16


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["flower"], "pfedhr flower takes: new DIR"),
        (["flower", "old", "x"], "pfedhr flower takes: new DIR"),
        (["run", "demo", "--engine", "ray"], "--engine ray: choose in-process or flower"),
        (["run", "demo", "--engine", "flower", "--plan.rounds", "0"], "plan.rounds = 0"),
        (["run", "demo", "--engine.min-clients", "5"], "engine.min_clients = 5: a round has plan.active = 4"),
        (["run", "demo", "--engine.round-timeout", "0"], "engine.round_timeout = 0.0"),
        (["run", "demo", "--engine.retries", "-1"], "engine.retries = -1"),
        (["run", "--resume", "x", "--engine", "flower", "--workers", "2"], "--workers is for runs in-process"),
    ],
)
def test_errors_name_what_to_change(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_without_flower_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "flwr" else found(name, *rest))
    with pytest.raises(SystemExit):
        main(["run", "demo", "--engine", "flower"])
    assert "pip install 'pfedhr[flower]'" in capsys.readouterr().err


def test_a_section_that_says_nothing_is_left_out_of_the_file() -> None:
    experiment = load_experiment("demo")
    assert "[engine]" not in dump(experiment)
    told = parse(dump(experiment) + "[engine]\nretries = 1\n", "the test")
    assert told.engine.retries == 1
    assert "[engine]\nmin_clients = 1\n" in dump(told)
    assert parse(dump(told), "the test") == told


def flower_run(path: Path) -> tuple[Experiment, Postbox]:
    """A run on Flower that has begun in `path`, and a mailbox of its clients."""
    experiment = parse(EXPERIMENT, "the test")
    run_name(path, RunDirectory.create(path, dump(experiment)))
    return experiment, Postbox(make_cohort(experiment), path / "clients")


def test_a_run_in_use_is_not_gone_on_with_and_flower_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flower_run(tmp_path / "run")
    (tmp_path / "run" / FAILURE).write_text("of the run at work")
    monkeypatch.setattr(launching, "run_app", lambda *rest: pytest.fail("Flower was started"))
    monkeypatch.setattr(launching, "_require_flower", lambda: None)
    with locked(tmp_path / "run"), pytest.raises(LockedError, match="another process is running"):
        launching.resume_simulation(tmp_path / "run", Silent())
    assert (tmp_path / "run" / FAILURE).read_text() == "of the run at work"


def test_a_server_that_finds_a_run_in_use_leaves_no_word_for_that_run(tmp_path: Path) -> None:
    path = tmp_path / "run"
    _, postbox = flower_run(path)
    with locked(path), pytest.raises(LockedError):
        simulated_server(postbox, {DIRECTORY: str(path)})
    postbox.tamper = lambda letter, delivery: None
    (path / "experiment.toml").write_text((path / "experiment.toml").read_text() + "[engine]\nround_timeout = 0.1\n")
    with locked(path), pytest.raises(LockedError):
        simulated_server(postbox, {DIRECTORY: str(path)})
    assert not (path / FAILURE).exists()
    with pytest.raises(FederationError, match="have come"):
        simulated_server(postbox, {DIRECTORY: str(path)})
    assert "have come" in (path / FAILURE).read_text()
