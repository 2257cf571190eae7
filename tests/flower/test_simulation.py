"""Flower's simulation, by its real processes: the numbers of every engine, and runs that are killed and go on."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from flower.deployed import kill, running
from flower.every_method import CLIENTS, cohort_of, outcome
from flower.faults import FAULTS, SCHEDULE
from flower.faults import cohort as faulty_cohort
from methods import SMALL
from toy_runs import EXPERIMENT, contents

from pfedhr.algorithms import ALGORITHMS
from pfedhr.algorithms.local import Local
from pfedhr.cli import main
from pfedhr.federate import federate
from pfedhr.flower.launching import App, run_app
from pfedhr.flower.processes import processes_with
from pfedhr.in_process import InProcess, Workers
from pfedhr.transport import Admit, Order, Report

pytestmark = [pytest.mark.flower, pytest.mark.timeout(600)]
TESTS = Path(__file__).parents[1]


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))  # where its data set is
    file = tmp_path / "toy.toml"
    file.write_text(f"workers = 2\n{EXPERIMENT}")
    return file


def test_every_method_gives_the_same_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    run_app(App("flower.toy_app:server", "flower.toy_app:client"), tmp_path, CLIENTS, 1, lambda: None)
    assert (tmp_path / "found.json").exists(), (tmp_path / "flower.log").read_text()[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found.keys() == ALGORITHMS.keys()
    for name in ALGORITHMS:
        cohort = cohort_of(name)
        with Workers(cohort) as workers:
            expected = outcome(name, InProcess(ALGORITHMS[name](**SMALL[name]), workers))
        assert found[name] == json.loads(json.dumps(expected)), name


class Faulty(InProcess):
    """The in-process engine without the reports that are lost to faults."""

    def exchange(self, outbox: Mapping[str, Order], admit: Admit) -> dict[str, Report]:
        sound = {client: order for client, order in outbox.items() if (client, order.round) not in FAULTS}
        return super().exchange(sound, admit)


def test_clients_that_fail_are_left_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    run_app(App("flower.faulty_app:server", "flower.faulty_app:client"), tmp_path, 3, 3, lambda: None)
    log = (tmp_path / "flower.log").read_text()
    assert (tmp_path / "found.json").exists(), log[-3000:]
    took_part, ends = json.loads((tmp_path / "found.json").read_text())
    clients = ["client00", "client01", "client02"]
    assert took_part == [
        [client for client in clients if (client, round) not in FAULTS] for round in range(1, SCHEDULE.rounds + 1)
    ]
    held = faulty_cohort()
    with Workers(held) as workers:
        engine = Faulty(Local(), workers)
        list(federate(Local(), engine, engine.server_view, clients, SCHEDULE, held.seed))
    assert ends == {client: hashlib.sha256(engine.state(client) or b"").hexdigest() for client in clients}
    for words in ("out of order", "has not answered", "not a parcel", "it answers as 'client00'", "content that is not ours"):
        assert words in log


def compared(path: Path) -> dict[str, object]:
    """What two runs have in common, whichever engine they ran on."""
    names = ("clients.csv", "rounds.jsonl", "models", "experiment.toml")
    return {name: content for name, content in contents(path).items() if any(part in name for part in names)}


def test_a_run_on_flower_ends_as_in_process_though_it_is_killed_on_the_way(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["run", str(experiment), "--out", str(tmp_path / "here")])
    there = tmp_path / "there"
    command = [sys.executable, "-m", "pfedhr", "run", str(experiment), "--engine", "flower", "--out", str(there)]
    environment = os.environ | {"TEST_OF_KILLS": str(there)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    rounds = there / "rounds.jsonl"
    deadline = time.monotonic() + 120
    while not (rounds.exists() and rounds.read_bytes().count(b"\n")):
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kill(running(processes_with(f"TEST_OF_KILLS={there}"), "flwr-simulation"))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert b"ended before its last round" in errors
    assert b"--resume" in errors
    assert not (there / "clients.csv").exists()

    with pytest.raises(SystemExit):
        main(["run", "--resume", str(there)])
    assert "was begun on Flower" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["run", "--resume", str(tmp_path / "here"), "--engine", "flower"])
    assert "was begun in-process" in capsys.readouterr().err

    main(["run", "--resume", str(there), "--engine", "flower"])
    assert compared(there) == compared(tmp_path / "here")
    assert "clients better off than alone" in capsys.readouterr().out


def test_what_the_user_can_mend_is_told(experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit):
        main(["run", str(experiment), "--engine", "flower", "--out", str(out), "--algorithm.tuning-learning-rate", "1e30"])
    assert "the loss is" in capsys.readouterr().err
    assert out.exists()
