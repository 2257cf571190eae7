from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toy import equal, make_cohort

import pfedhr
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.own import Nothing
from pfedhr.methods import find_method

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_reassembly_on_ones_own_networks() -> None:
    ended = subprocess.run([sys.executable, EXAMPLES / "reassemble.py"], capture_output=True, text=True, check=True)
    assert "5 candidates" in ended.stdout
    assert all(f"{name} is answered most alike by" in ended.stdout for name in ("small", "deep", "wide"))


def test_ones_own_network_and_data(tmp_path: Path) -> None:
    for name in ("own_model_and_data.py", "own_model_and_data.toml"):
        shutil.copy(EXAMPLES / name, tmp_path)
    # The console script, which unlike `python -m` does not put the working directory on the path by itself.
    command = [Path(sys.executable).parent / "pfedhr", "run", "own_model_and_data.toml", "--plan.rounds", "1", "--workers", "2"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "own_model_and_data:make" in (tmp_path / "runs" / "own" / "clients.csv").read_text()
    assert "6 clients better off than alone" in ended.stdout


def test_ones_own_method(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "own_method.py", tmp_path)
    command = [Path(sys.executable).parent / "pfedhr", "compare", "demo", "--algorithms", "own_method:UniformTeacher"]
    command += ["--uniform-teacher.weight", "0.5", "--seeds", "0", "--plan.rounds", "2", "--plan.local-epochs", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "uniform-teacher" in ended.stdout
    rows = (tmp_path / "runs" / "compare-demo" / "cells.csv").read_text()
    assert ",uniform-teacher," in rows


def test_alone_again_differs_in_its_initial_weights_and_in_the_order_of_its_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    again, view = find_method("alone_again:AloneAgain")(), make_cohort("mlp", clients=1).client_view("client00", 1)
    assert not equal(again.init_client(view).weights, Local().init_client(view).weights)
    begun = Local().init_client(view)
    ends = [method.client_step(begun, Nothing(), view)[0].weights for method in (again, again, Local())]
    assert equal(ends[0], ends[1])
    assert not equal(ends[0], ends[2])


def test_the_public_names_are_there() -> None:
    assert all(getattr(pfedhr, name) is not None for name in pfedhr.__all__)
    assert set(dir(pfedhr)) == set(pfedhr.__all__)
    with pytest.raises(AttributeError, match="'nothing'"):
        pfedhr.nothing  # noqa: B018
