"""A run killed or stopped at any moment, or damaged, goes on as if nothing had been, or is refused."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from torch import nn
from toy_runs import EXPERIMENT, SHORT, Silent, contents

from pfedhr import disk
from pfedhr.disk import LockedError, locked, write
from pfedhr.experiment_file import parse
from pfedhr.launch import resume, start
from pfedhr.processes import Processes
from pfedhr.run import RunError
from pfedhr.zoo import ModelError


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


def test_a_run_does_not_go_on_with_other_data(undisturbed: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(undisturbed, path)
    kept = (path / "data.sha256").read_text()
    resume(path, Silent())
    (path / "data.sha256").unlink()
    resume(path, Silent())  # of a run of before it was kept, which has it from now on
    assert (path / "data.sha256").read_text() == kept
    start(parse(SHORT.replace("toy_runs:quarters", "toy_runs:shuffled"), "the test"), tmp_path / "other", Silent())
    with pytest.raises(RunError, match=r"other: the data \(clients\) is no longer that of the run.*same examples each time"):
        resume(tmp_path / "other", Silent())


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
