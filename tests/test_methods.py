"""Methods by name, those of users among them: found, told in files, compared, and never imported for another machine."""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from flower.postbox import experiment_of
from toy import make_cohort
from toy_methods import Damped
from toy_runs import EXPERIMENT

from pfedhr.algorithm import Algorithm, SettingError
from pfedhr.algorithms import ALGORITHMS
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.cli import main
from pfedhr.experiment import ExperimentError
from pfedhr.experiment_file import dump, override, parse, parse_foreign
from pfedhr.flower.errands import Errand, Participant, RollCall, perform, present
from pfedhr.imports import NotFoundError
from pfedhr.launch import prepare
from pfedhr.methods import find_method, name_of
from pfedhr.results import read_results
from pfedhr.run import RunDirectory
from pfedhr.stored import stored_experiment

OWN = "toy_methods:Damped"
HOMOGENEOUS = EXPERIMENT.replace('models = ["cnn1", "mlp"]', 'models = ["mlp"]')


@pytest.mark.parametrize(
    ("algorithm", "told"),
    [
        (PFedHR(teachers="structures"), "algorithm.teachers = structures of pfedhr: choose one of reassembled, own, structure"),
        (ALGORITHMS["fedkemf"](ensemble="vote"), "algorithm.ensemble = vote of fedkemf: choose one of average, maximum"),
        (ALGORITHMS["fedproto"](prediction="nearest"), "algorithm.prediction = nearest of fedproto: choose one of head, proto"),
    ],
)
def test_a_choice_that_there_is_not_is_refused_from_python_too(algorithm: Algorithm, told: str) -> None:
    with pytest.raises(SettingError, match=told):
        prepare(replace(parse(EXPERIMENT, "the test"), algorithm=algorithm))


def test_every_method_is_found_by_its_name() -> None:
    assert all(find_method(name_of(method)) is method and name_of(method) == name for name, method in ALGORITHMS.items())
    assert name_of(Damped) == OWN
    assert find_method(OWN) is Damped


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fedporto", "did you mean 'fedproto'?"),
        ("damped", "or your own as 'package.module:Class'"),
        ("toy_methods:", "not of the form 'package.module:class'"),
        ("absent_methods:Mine", "no module 'absent_methods'"),
        ("toy_methods:Absent", "has no class 'Absent'"),
        ("toy_methods:NUMBER", "is of type int; name a class"),
        ("toy_methods:no_class", "no class derived from pfedhr.algorithm.Algorithm"),
        ("builtins:dict", "no class derived from pfedhr.algorithm.Algorithm"),
        ("toy_methods:Unfinished", "does not define check, client_step"),
        ("toy_methods:Unnamed", "its name is 'local'"),
        ("toy_methods:Spaced", "its name is '../my method'"),
        ("toy_methods:Undecorated", "must itself be decorated"),
        ("toy_methods:Odd", "field weight is of a type that no file has"),
        ("toy_methods:WithoutDefault", "field weight has no default"),
        ("toy_methods:Unreadable", "cannot be read: NameError: name 'Absent'"),
    ],
)
def test_what_is_no_method_is_refused_with_the_reason(name: str, told: str) -> None:
    with pytest.raises(NotFoundError) as raised:
        find_method(name)
    assert told in str(raised.value)
    with pytest.raises(ExperimentError) as stated:
        override(parse(EXPERIMENT, "the test"), ["--algorithm.name", name])
    assert f"algorithm.name = {name!r} in the command line: " in str(stated.value)
    assert told in str(stated.value)


def test_a_method_of_ones_own_is_told_in_the_file_and_set_as_any_other() -> None:
    experiment = override(parse(HOMOGENEOUS, "the test"), ["--algorithm.name", OWN, "--algorithm.share", "0.25"])
    assert experiment.algorithm == Damped(share=0.25)
    assert parse(dump(experiment), "the file") == experiment
    again = override(experiment, ["--algorithm.name", OWN, "--algorithm.layers", "a", "b"])
    assert again.algorithm == Damped(share=0.25, layers=("a", "b"))  # the same name again resets nothing
    with pytest.raises(ExperimentError, match=r"unknown field --algorithm\.shear"):
        override(experiment, ["--algorithm.shear", "1"])


def test_a_method_of_ones_own_runs_in_processes_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "toy.toml"
    file.write_text(HOMOGENEOUS)
    for workers in ("1", "2"):
        words = ["--algorithm.name", OWN, "--plan.rounds", "2", "--workers", workers, "--out", str(tmp_path / workers)]
        main(["run", str(file), *words])
    assert stored_experiment(tmp_path / "2").algorithm == Damped()
    assert (tmp_path / "1" / "clients.csv").read_bytes() == (tmp_path / "2" / "clients.csv").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    stopped = str(tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "end_round", full)
        with pytest.raises(SystemExit):
            main(["run", str(file), "--algorithm.name", OWN, "--plan.rounds", "2", "--out", stopped])
    main(["run", "--resume", stopped])
    assert (tmp_path / "1" / "clients.csv").read_bytes() == (tmp_path / "stopped" / "clients.csv").read_bytes()


def test_a_method_of_ones_own_is_compared_under_its_label(tmp_path: Path) -> None:
    file, out = tmp_path / "toy.toml", tmp_path / "study"
    file.write_text(HOMOGENEOUS)
    command = ["compare", str(file), "--algorithms", f"{OWN},fedavg", "--seeds", "0,1", "--workers", "2", "--out", str(out)]
    command += ["--plan.rounds", "2", "--damped.share", "1"]
    main(command)
    means = {(row.method, row.seed): row.mean for row in read_results(out).cells}
    assert len(means) == 6
    assert all(means["damped", seed] == means["fedavg", seed] for seed in (0, 1))  # all of the way is FedAvg
    made = {path: path.stat().st_mtime_ns for path in (out / "cells").glob("*/*/rounds.jsonl")}
    main(command)
    assert len(made) == 6
    assert all(path.stat().st_mtime_ns == when for path, when in made.items())  # none ran again


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([f"{OWN},toy_methods:SameLabel"], "toy_methods:Damped and toy_methods:SameLabel are both called 'damped'"),
        ([f"fedavg,{OWN}", "--damped.kind", "square"], "damped.kind = 'square'"),
        ([f"fedavg,{OWN}", "--kind", "none"], "unknown field --kind"),
        (["fedprox", "--fedprox.mu", "1"], "unknown field --fedprox.mu in the command line: known are proximal_weight"),
        (["fedprox", "--fedprox.proximal_wait", "1"], "did you mean '--fedprox.proximal_weight'?"),
        (["fedavg", "--fedavg.prset", "x"], "unknown field --fedavg.prset in the command line: fedavg has no setting prset"),
        (["pfedhr", "--pfedhr.prset", "paper"], "did you mean '--pfedhr.preset'?"),
        (["toy_methods:Odd"], "--algorithms: unknown method 'toy_methods:Odd': its field weight"),
    ],
)
def test_a_comparison_refuses_such_methods(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "toy.toml"
    file.write_text(HOMOGENEOUS)
    with pytest.raises(SystemExit):
        main(["compare", str(file), "--out", str(tmp_path / "study"), "--algorithms", *words])
    assert told in capsys.readouterr().err


def test_nothing_is_imported_for_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "foreign_methods.py").write_text('raise SystemExit("this code must not run")\n')
    monkeypatch.syspath_prepend(tmp_path)
    text = dump(replace(parse(HOMOGENEOUS, "the test"), algorithm=Damped()))
    assert parse_foreign(text, "the letter").algorithm == Damped()  # which this process has imported by itself
    for name in ("foreign_methods:Mine", "toy_methods:Absent", "os:system", "pfedhr:algorithms"):
        with pytest.raises(ExperimentError):
            parse_foreign(text.replace(OWN, name), "the letter")
    assert "foreign_methods" not in sys.modules
    cohort = make_cohort("mlp")
    client, data = next(iter(cohort.federation.clients.items()))
    participant = Participant(client, cohort.networks[client], data.train, data.test, cohort.federation.public, tmp_path)
    named = dump(experiment_of(Damped(), cohort))
    assert present(participant, RollCall(named)).problem == ""
    foreign = named.replace(OWN, "foreign_methods:Mine")
    assert "nothing is imported here" in present(participant, RollCall(foreign)).problem
    with pytest.raises(ExperimentError, match="nothing is imported here"):
        perform(participant, Errand("0" * 16, foreign, client, 1, 0, False, True), None)
