"""A run goes on with the experiment and the kinds of states that it was begun with, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from toy_runs import EXPERIMENT, PRIVATE, Silent, contents

from pfedhr.cli import main
from pfedhr.experiment_file import parse
from pfedhr.launch import resume, start
from pfedhr.parcel import pack
from pfedhr.run import RunError

BEGUN = "checkpoint/experiment.toml"


class Stopped(BaseException):
    """Stands for a kill."""


class StopsAfter(Silent):
    """Ends the run after the first round of `label`."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self._label = label

    def end_round(self, label: str, record: Mapping[str, Any]) -> None:
        if label == self._label:
            raise Stopped


def stopped(path: Path, label: str, text: str = EXPERIMENT) -> Path:
    with pytest.raises(Stopped):
        start(parse(text, "the test"), path, StopsAfter(label))
    return path


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs by where they stand: in the midst of the clients alone, of the method's rounds, at the end."""
    folder = tmp_path_factory.mktemp("begun")
    for label in ("local", "pfedhr"):
        stopped(folder / label, label)
    start(parse(EXPERIMENT, "the test"), folder / "ended", Silent())
    return folder


def copy(of: Path, to: Path) -> Path:
    return shutil.copytree(of, to / "run")


def edit(path: Path, *changes: tuple[str, str]) -> None:
    file = path / "experiment.toml"
    text = file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)


@pytest.mark.parametrize("label", ["local", "pfedhr"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("seed = 0", "seed = 1"), "seed was 0, is 1"),
        (('partition = "iid"', 'partition = "classes"'), "data.partition was iid, is classes"),
        (("tuning_epochs = 1", "tuning_epochs = 2"), "algorithm.tuning_epochs was 1, is 2"),
        (("[algorithm]", "[privacy]\nnoise = 1.0\n\n[algorithm]"), "privacy.noise was its default, is 1.0"),
    ],
)
def test_a_run_is_not_taken_up_under_another_experiment(
    begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], label: str, change: tuple[str, str], told: str
) -> None:
    path = copy(begun / label, tmp_path)
    edit(path, change)
    before = contents(path)
    with pytest.raises(SystemExit):
        main(["run", "--resume", str(path)])
    error = capsys.readouterr().err
    assert told in error
    assert "restore it, or run the new one in a folder of its own" in error
    assert contents(path) == before


def test_where_and_how_a_run_is_carried_out_may_change(begun: Path, tmp_path: Path) -> None:
    path = copy(begun / "pfedhr", tmp_path)
    edit(
        path,
        ("workers = 1", "workers = 2"),
        ('device = "auto"', 'device = "cpu"'),
        ('name = "toy"', 'name = "another"'),
        ('dir = ""', f'dir = "{tmp_path}"'),
        ("[algorithm]", "[engine]\nretries = 1\n\n[algorithm]"),
    )
    assert len(resume(path, Silent())) == 4


def test_rounds_added_are_as_if_they_had_always_been_asked_for(begun: Path, tmp_path: Path) -> None:
    more = ("rounds = 3", "rounds = 4")
    start(parse(EXPERIMENT.replace(*more), "the test"), tmp_path / "whole", Silent())
    expected = contents(tmp_path / "whole")
    for stands in ("local", "pfedhr", "ended"):
        path = copy(begun / stands, tmp_path / stands)
        edit(path, more)
        resume(path, Silent())
        found = contents(path)
        for folder in ("", "local/"):  # what it was begun with, it keeps
            found[folder + BEGUN] = expected[folder + BEGUN]
        assert found == expected, stands


def test_an_end_that_rounds_are_added_to_is_no_longer_one(begun: Path, tmp_path: Path) -> None:
    path = copy(begun / "ended", tmp_path)
    edit(path, ("rounds = 3", "rounds = 5"))
    with pytest.raises(Stopped):
        resume(path, StopsAfter("pfedhr"))
    assert not (path / "clients.csv").exists()


def test_rounds_that_have_ended_are_not_taken_back(begun: Path, tmp_path: Path) -> None:
    path = copy(begun / "pfedhr", tmp_path)
    edit(path, ("rounds = 3", "rounds = 2"))  # the method has ended one, the clients alone three
    with pytest.raises(RunError, match=r"plan\.rounds = 2: .* 3 rounds have ended; give 3 or more"):
        resume(path, Silent())


def test_no_rounds_are_added_under_privacy(tmp_path: Path) -> None:
    """The noise of a run is drawn for its experiment, the number of its rounds included."""
    path = stopped(tmp_path / "run", "fedavg", PRIVATE)
    edit(path, ("rounds = 3", "rounds = 4"))
    with pytest.raises(RunError, match=r"plan\.rounds was 3, is 4"):
        resume(path, Silent())


def test_a_run_of_before_experiments_were_kept_goes_on(begun: Path, tmp_path: Path) -> None:
    path = copy(begun / "pfedhr", tmp_path)
    for folder in (path, path / "local"):
        (folder / BEGUN).unlink()
    assert len(resume(path, Silent())) == 4
    assert not (path / BEGUN).exists()  # nobody knows what its rounds are of


@dataclass(frozen=True)
class Earlier:
    """The state of a method as an earlier version had it."""

    known: str


@pytest.mark.parametrize(
    ("states", "owner", "rounds"),
    [("server*", "the server", 4), ("client00*", "client client00", 4), ("client00*", "client client00", 3)],
)
def test_states_of_another_version_are_refused_in_words(
    undisturbed: Path, tmp_path: Path, states: str, owner: str, rounds: int
) -> None:
    """Whether rounds are left, or only the clients' networks to be written."""
    path = copy(undisturbed, tmp_path)
    edit(path, ("rounds = 3", f"rounds = {rounds}"))
    next((path / "checkpoint").glob(states)).write_bytes(pack(Earlier("nothing")))
    with pytest.raises(RunError, match=rf"the state of {owner} is none of this version.*\['known'\].*begin anew"):
        resume(path, Silent())
