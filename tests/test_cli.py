from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from toy_runs import EXPERIMENT

from pfedhr.algorithms import ALGORITHMS
from pfedhr.cli import COMMANDS, main
from pfedhr.disk import write
from pfedhr.run import RunDirectory
from pfedhr.stored import stored_experiment
from pfedhr.version import code
from pfedhr.zoo import ZOO


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys; from pfedhr.cli import main; main(['--help']); print('torch' in sys.modules, 'tyro' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "False False"
    assert all(f"pfedhr {command}" in ended.stdout for command in COMMANDS)


def test_a_field_set_on_the_command_line_reaches_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "toy.toml", tmp_path / "run"
    file.write_text(EXPERIMENT)
    fields = ["--plan.rounds", "1", "--public.labelled", "false", "--clients.models", "mlp", "--algorithm.groups=3"]
    main(["run", str(file), "--out", str(out), *fields])
    experiment = stored_experiment(out)
    assert (experiment.plan.rounds, experiment.public.labelled, experiment.clients.models) == (1, False, ("mlp",))
    assert experiment.algorithm.groups == 3
    printed = capsys.readouterr().out
    assert [f"client{number:02}" in printed for number in range(5)] == [True] * 4 + [False]
    assert all(word in printed for word in ("mean", "worst", "better off than alone", "teacher", str(out)))
    assert "\x1b" not in printed  # no progress and no colours where there is no terminal
    with pytest.raises(SystemExit):
        main(["run", str(file), "--out", str(out)])
    assert "not empty" in capsys.readouterr().err


def test_another_method_brings_its_own_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "toy.toml", tmp_path / "run"
    file.write_text(EXPERIMENT)
    main(["run", str(file), "--out", str(out), "--algorithm.name", "local", "--plan.rounds", "1"])
    assert stored_experiment(out).algorithm.name == "local"
    assert "alone" not in capsys.readouterr().out


def test_the_home_directory_is_found_where_the_shell_leaves_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    for path in (home, here):
        path.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    (home / "toy.toml").write_text(EXPERIMENT)
    brief = ["--plan.rounds", "1", "--algorithm.name", "local"]
    main(["run", "~/toy.toml", "--out=~/run", *brief])
    main(["run", "--resume=~/run"])
    main(["compare", "~/toy.toml", "--algorithms", "local-public", "--seeds", "0", "--out=~/study", "--plan.rounds", "1"])
    main(["report", "~/study"])
    main(["flower", "new", "~/app"])
    assert sorted(path.name for path in home.iterdir()) == ["app", "run", "study", "toy.toml"]
    assert list(here.iterdir()) == []
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["run", "demo", "--out=~nobody-of-this-name/x"])
    assert "~nobody-of-this-name/x: there is no home directory" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["compare", "reproduce", "report", "inspect", "presets"])
def test_help_is_no_error(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([command, "--help"])
    assert f"pfedhr {command}" in capsys.readouterr().out


def test_inspect_prints_the_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", "cnn1"])
    printed = capsys.readouterr().out
    assert "4 blocks, 97,384 parameters" in printed
    assert "10 x 14 x 14" in printed
    main(["inspect", "mlp", "--shape", "12", "--classes", "3"])
    assert "4 blocks, 44,675 parameters" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--out", "x", "--help"]])
def test_the_help_of_run_names_methods_and_networks(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", *words])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "usage: pfedhr" in printed
    assert all(name in printed for name in (*ALGORITHMS, *ZOO))


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert re.fullmatch(rf"pfedhr {re.escape(version('pfedhr'))}, code [0-9a-f]{{10}}\n", capsys.readouterr().out)


def test_other_code_of_the_same_version_has_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for files in ({"version.py": "", "a.py": "1"}, {"version.py": "", "a.py": "2"}, {"version.py": "", "b.py": "1"}):
        folder = tmp_path / str(len(names))
        for name, text in files.items():
            write(folder / name, text.encode())
        monkeypatch.setattr("pfedhr.version.__file__", str(folder / "version.py"))
        names += [code.__wrapped__(), code.__wrapped__()]
    assert len(set(names)) == 3
    assert names[::2] == names[1::2]


@pytest.mark.parametrize("words", [["--help"], ["presets"], ["run", "demo", "--help"]])
def test_a_reader_that_has_seen_enough_is_no_error(words: list[str]) -> None:
    end, start = os.pipe()
    os.close(end)
    ended = subprocess.run([sys.executable, "-m", "pfedhr", *words], stdout=start, stderr=subprocess.PIPE, text=True)
    os.close(start)
    assert ended.stderr == ""


def test_a_full_disk_in_a_round_tells_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = tmp_path / "toy.toml", tmp_path / "my run"
    file.write_text(EXPERIMENT)
    command = ["run", str(file), "--out", str(out), "--plan.rounds", "1", "--compare-local", "false"]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "end_round", full)
        with pytest.raises(SystemExit) as ended:
            main(command)
    assert ended.value.code == 2
    told = f"pfedhr: {out}: No space left on device: make room, then pfedhr run --resume '{out}'\n"
    assert capsys.readouterr().err == told
    main(["run", "--resume", str(out)])
    assert f"written to {out}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(command)
    assert f"`pfedhr run --resume '{out}'`" in capsys.readouterr().err


def test_every_field_of_an_experiment_is_in_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "demo", "--algorithm.name", "local", "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "--plan.evaluate-every" in printed
    assert "--algorithm.groups" not in printed
    assert "DataError" not in printed  # a word of those who develop


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["presets"])
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} >= {
        *("demo", "two-classes", "image-families", "text-families", "tabular-families")
    }


def test_networks_that_take_words_are_inspected(capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", "lstm", "--shape", "12", "--tokens"])
    printed = capsys.readouterr().out
    assert all(kind in printed for kind in ("embedding", "recurrent", "fc"))
