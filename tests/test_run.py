"""The run directory, and that a run killed at any moment ends as if it had never been."""

from __future__ import annotations

import csv
import fcntl
import itertools
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn
from toy import separable

from pfedhr import disk
from pfedhr.algorithm import SettingError
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.data import Dataset, Examples
from pfedhr.disk import LockedError, locked, write
from pfedhr.experiment import Experiment
from pfedhr.experiment_file import dump, parse
from pfedhr.launch import prepare, resume, start
from pfedhr.models import ModelSpec, build
from pfedhr.processes import Processes
from pfedhr.run import RunDirectory, RunError
from pfedhr.stored import stored_experiment
from pfedhr.zoo import ModelError


def quarters(directory: str) -> Dataset:
    """A data set of one's own: `data.name = "test_run:quarters"`."""
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


# As few disk operations as can be, for a crash at each of them.
SHORT = (
    EXPERIMENT.replace("rounds = 3", "rounds = 2")
    .replace("count = 4", "count = 2")
    .replace("active = 2", "active = 1")
    .replace('"cnn1", "mlp"', '"mlp"')
    .replace("tuning_epochs = 1", "tuning_epochs = 0")
)


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


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((path / "clients.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    start(parse(EXPERIMENT, "the test"), path, Silent())
    return path


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


class Killed(BaseException):
    """Stands for a kill: nothing that handles errors sees it."""


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> list[str]:
    """Let the process end at the disk operation `step`: a write half done, one done but not named, a deletion not made."""
    done: list[str] = []
    synced: dict[int, int] = {}  # sizes that a crash cannot take back, by inode
    real = {"fsync": os.fsync, "replace": Path.replace, "unlink": Path.unlink}

    def fsync(descriptor: int) -> None:
        done.append("fsync")
        status = os.fstat(descriptor)
        if len(done) == step:
            if stat.S_ISREG(status.st_mode):
                appended = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND  # the others are new, whatever their inode
                safe = synced.get(status.st_ino, 0) if appended else 0
                os.ftruncate(descriptor, safe + (status.st_size - safe) // 2)
            raise Killed
        real["fsync"](descriptor)
        synced[status.st_ino] = status.st_size

    def counted(name: str) -> Callable[..., object]:
        def operation(path: Path, *arguments: Path) -> object:
            done.append(name)
            if len(done) == step:
                raise Killed
            return real[name](path, *arguments)

        return operation

    monkeypatch.setattr(disk.os, "fsync", fsync)
    monkeypatch.setattr(disk.Path, "replace", counted("replace"))
    monkeypatch.setattr(disk.Path, "unlink", counted("unlink"))
    return done


def test_a_crash_at_any_disk_operation_changes_nothing_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = parse(SHORT, "the test")
    with monkeypatch.context() as patch:
        operations = crash_at(patch, -1)
        start(experiment, tmp_path / "whole", Silent())
    assert {"fsync", "replace", "unlink"} == set(operations)
    expected = contents(tmp_path / "whole")
    for step in range(1, len(operations) + 1):
        path = tmp_path / f"crash-{step}"
        with monkeypatch.context() as patch:
            crash_at(patch, step)
            with pytest.raises(Killed):
                start(experiment, path, Silent())
        if not (path / "experiment.toml").exists():
            assert step <= 2  # the run had not begun
            start(experiment, path, Silent())
        else:
            resume(path, Silent())
        assert contents(path) == expected, f"step {step}: {operations[step - 1]}"


def test_a_finished_run_resumed_stays_as_it_is(undisturbed: Path) -> None:
    before = contents(undisturbed)
    watch = Silent()
    outcomes = resume(undisturbed, watch)
    assert watch.seen == [("local", 3), ("pfedhr", 3)]
    assert contents(undisturbed) == before
    assert len(outcomes) == 4


def test_a_process_killed_is_taken_up_where_it_stood(undisturbed: Path, tmp_path: Path) -> None:
    """With kill -9 on real processes with workers: while the clients learn alone, and in the method's own rounds."""
    file, path = tmp_path / "toy.toml", tmp_path / "run"
    file.write_text(EXPERIMENT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-m", "pfedhr", "run"]
    for arguments, watched, lines in (
        ([str(file), "--out", str(path)], path / "local" / "rounds.jsonl", 1),
        (["--resume", str(path), "--workers", "2"], path / "rounds.jsonl", 2),
    ):
        process = subprocess.Popen([*command, *arguments], env=environment, stdout=subprocess.DEVNULL)
        until(partial(has_lines, watched, lines), process)
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (path / "clients.csv").exists()
        until(partial(all_ended, workers))
    assert len(workers) >= 2
    ended = subprocess.run([*command, "--resume", str(path)], env=environment, capture_output=True, text=True, check=True)
    assert "better off than alone" in ended.stdout
    assert contents(path) == contents(undisturbed)


def until(condition: Callable[[], bool], process: subprocess.Popen | None = None) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process is None or process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def has_lines(path: Path, count: int) -> bool:
    return path.exists() and path.read_bytes().count(b"\n") >= count


def all_ended(processes: list[int]) -> bool:
    return not any(alive(process) for process in processes)


def alive(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_run_stopped_by_the_user_says_how_to_go_on(tmp_path: Path) -> None:
    file, path = tmp_path / "toy.toml", tmp_path / "run"
    file.write_text(EXPERIMENT.replace("rounds = 3", "rounds = 500"))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-m", "pfedhr", "run", str(file), "--out", str(path), "--workers", "2"]
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # tests in the background inherit that it is ignored
    )
    until(lambda: (path / "local" / "rounds.jsonl").exists(), process)
    workers = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to the workers, too
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert printed == ""
    assert errors.strip() == f"pfedhr: stopped; go on with: pfedhr run --resume {path}"
    until(partial(all_ended, workers))


def test_ctrl_c_cannot_reach_workers_even_while_they_start() -> None:
    with Processes(2) as processes:
        blocked = list(processes.run(signal.pthread_sigmask, [(signal.SIG_BLOCK, [])] * 4))
    assert blocked == [{signal.SIGINT}] * 4
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_only_one_process_runs_in_a_directory(undisturbed: Path) -> None:
    with locked(undisturbed), pytest.raises(LockedError, match="another process is running"):
        resume(undisturbed, Silent())
    resume(undisturbed, Silent())


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


def spoil_line(path: Path, number: int, content: bytes) -> None:
    lines = (path / "rounds.jsonl").read_bytes().splitlines()
    (path / "rounds.jsonl").write_bytes(b"\n".join([*lines[: number - 1], content, *lines[number:], b""]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "latest.parcel").write_bytes(b"\0" * 100), r"latest\.parcel is damaged.*--out"),
        (lambda folder: next(folder.glob("client*")).unlink(), r"client.*\.parcel is missing.*--out"),
        (lambda folder: next(folder.glob("server*")).unlink(), r"server.*\.parcel is missing.*--out"),
        (lambda folder: next(folder.glob("client*")).write_bytes(b"\0" * 50), r"checkpoint/client.*\.parcel is damaged.*--out"),
        (lambda folder: next(folder.glob("server*")).write_bytes(b"\0" * 50), r"checkpoint/server.*\.parcel is damaged.*--out"),
        (lambda folder: spoil_line(folder.parent, 2, b"\0\0"), r"rounds\.jsonl line 2 is damaged.*--out"),
        (lambda folder: spoil_line(folder.parent, 3, b"\xff"), r"rounds\.jsonl line 3 is damaged.*--out"),
        (lambda folder: spoil_line(folder.parent, 1, b"[]"), r"rounds\.jsonl line 1 is damaged.*--out"),
        (lambda folder: (folder.parent / "rounds.jsonl").write_bytes(b"{}\n"), r"rounds\.jsonl has 1 rounds.*of round 3"),
    ],
)
def test_a_damaged_run_is_refused_by_file(
    undisturbed: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "run"
    shutil.copytree(undisturbed, path)
    damage(path / "checkpoint")
    with pytest.raises(RunError, match=message):
        resume(path, Silent())


WIDTH = 8
"""Of the network below, which a user changes between two runs of one experiment."""


def of_a_width(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, classes))


def test_a_run_whose_network_has_changed_since_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = EXPERIMENT[: EXPERIMENT.index("[algorithm]")].replace('"cnn1", "mlp"', f'"{__name__}:of_a_width"')
    start(parse(text + '[algorithm]\nname = "local"\n', "the test"), tmp_path / "run", Silent())
    longer = (tmp_path / "run" / "experiment.toml").read_text().replace("rounds = 3", "rounds = 4")
    (tmp_path / "run" / "experiment.toml").write_text(longer)
    monkeypatch.setattr(sys.modules[__name__], "WIDTH", 9)
    with pytest.raises(ModelError, match=r"of_a_width' is no longer the network that the run was begun with.*restore"):
        resume(tmp_path / "run", Silent())


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


def test_a_write_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file"
    write(path, b"old")
    with monkeypatch.context() as patch:
        crash_at(patch, 1)
        with pytest.raises(Killed):
            write(path, b"new and longer")
    assert path.read_bytes() == b"old"
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert [file.name for file in path.parent.iterdir()] == ["file"]


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
    text = EXPERIMENT.replace(f"{__name__}:quarters", f"{__name__}:sentences")
    experiment = parse(text.replace('"cnn1", "mlp"', f'"{__name__}:small_words"'), "the test")
    with pytest.raises(ModelError, match=r"small_words' failed on the examples of the least and the largest .*IndexError"):
        prepare(experiment)


loads = itertools.count()


def shuffled(directory: str) -> Dataset:
    """A set in another order each time."""
    examples = separable(240, "quarters")
    return Dataset("shuffled", examples.take(torch.arange(240).roll(next(loads))), classes=4, mirror=False)


def test_a_run_does_not_go_on_with_other_data(undisturbed: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(undisturbed, path)
    kept = (path / "data.sha256").read_text()
    resume(path, Silent())
    (path / "data.sha256").unlink()
    resume(path, Silent())  # of a run of before it was kept, which has it from now on
    assert (path / "data.sha256").read_text() == kept
    start(parse(SHORT.replace(f"{__name__}:quarters", f"{__name__}:shuffled"), "the test"), tmp_path / "other", Silent())
    with pytest.raises(RunError, match=r"other: the data \(clients\) is no longer that of the run.*same examples each time"):
        resume(tmp_path / "other", Silent())


def rare(directory: str) -> Dataset:
    """A set one of whose two classes has one example in 50."""
    return Dataset("rare", Examples(torch.randn(500, 4), (torch.arange(500) % 50 == 0).long()), classes=2, mirror=False)


def test_a_run_tells_that_most_private_examples_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    text = EXPERIMENT.replace(f"{__name__}:quarters", f"{__name__}:rare").replace('"cnn1", "mlp"', '"mlp"')
    prepare(parse(text, "the test"))
    assert not caplog.messages
    for _ in range(2):
        prepare(parse(text.replace('"iid"', '"classes"'), "the test"))
    assert [message.partition(":")[0] for message in caplog.messages] == ["clients hold 16 of 450 private examples"]
