from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from test_run import EXPERIMENT

from pfedhr.algorithms import ALGORITHMS
from pfedhr.arguments import UsageError, folder
from pfedhr.cli import COMMANDS, main
from pfedhr.cli_studies import BASE, shared_by_all
from pfedhr.disk import write
from pfedhr.experiment_file import dump, load_experiment, override
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


def test_methods_are_compared_each_with_its_own_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "toy.toml", tmp_path / "study"
    file.write_text(EXPERIMENT)
    command = ["compare", str(file), "--algorithms", "fedmd,pfedhr", "--seeds", "0,1", "--out", str(out), "--plan.rounds", "2"]
    command += ["--fedmd.consensus-batch-size=8", "--pfedhr.candidates", "3"]
    main(command)
    printed, progress = capsys.readouterr()
    assert all(
        word in printed
        for word in (
            "local",
            "fedmd",
            "pfedhr",
            "to local",
            "worst client",
            "MB up",
            "server s",
            "extra data",
            "few seeds (2 here)",
            str(out),
        )
    )
    assert progress.count("/seed") == 6
    stored = [stored_experiment(path) for path in sorted((out / "cells").glob("*/seed0"))]
    fields = {one.algorithm.name: one.algorithm for one in stored}
    assert fields["fedmd"].consensus_batch_size == 8
    assert (fields["pfedhr"].candidates, fields["pfedhr"].groups) == (3, 2)  # the one of the command, the other of the file
    assert all(one.plan.rounds == 2 for one in stored)
    assert (out / "tables.md").read_text().count("fedmd") >= 2
    about = (out / "about.json").read_text()
    assert "pfedhr compare toy.toml --algorithms fedmd,pfedhr" in about
    assert str(tmp_path) not in about
    with pytest.raises(SystemExit):
        main([*command[:-5], "--plan.rounds", "1"])
    assert "the comparison there is of another experiment" in capsys.readouterr().err
    main(command)
    again, progress = capsys.readouterr()
    assert progress == ""  # nothing is run twice
    assert again == printed
    tables = (out / "tables.md").read_bytes()
    (out / "tables.md").unlink()
    main(["report", str(out)])
    assert capsys.readouterr().out == printed
    assert (out / "tables.md").read_bytes() == tables


def test_a_study_takes_no_other_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "toy.toml"
    file.write_text(EXPERIMENT)
    for out, words in ((tmp_path, "something else than a study"), (file, "that is a file")):
        with pytest.raises(SystemExit):
            main(["compare", str(file), "--algorithms", "local-public", "--out", str(out)])
        assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["toy.toml"]


def test_a_comparison_is_the_same_wherever_the_files_of_its_set_lie(tmp_path: Path) -> None:
    here, there = (
        override(load_experiment("two-classes"), ["--data.name", "mnist", "--data.dir", place]) for place in ("here", "there")
    )
    (tmp_path / BASE).write_text(dump(here))  # as it was written before, and as a reader may have changed it
    shared_by_all(there, tmp_path)
    with pytest.raises(UsageError, match="is of another experiment"):
        shared_by_all(override(there, ["--plan.rounds", "3"]), tmp_path)


def test_a_comparison_leaves_out_no_runs_whose_files_are_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "toy.toml", tmp_path / "study"
    file.write_text(EXPERIMENT)
    command = ["compare", str(file), "--out", str(out), "--plan.rounds", "1", "--seeds", "0", "--algorithms"]
    main([*command, "local-public"])
    shutil.rmtree(out / "cells")
    with pytest.raises(SystemExit):
        main([*command, "fedmd"])
    assert "tells of 1 runs whose files are gone" in capsys.readouterr().err
    main([*command, "local-public,fedmd"])
    assert all(method in (out / "tables.md").read_text() for method in ("local-public", "fedmd"))


@pytest.mark.parametrize("place", ["cells.csv", "table2-small/mnist/cells.csv"])
def test_a_study_whose_runs_are_gone_may_go_on(place: str, tmp_path: Path) -> None:
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    assert folder(str(tmp_path), "elsewhere") == tmp_path


def test_what_failed_is_told_beside_the_tables_of_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "toy.toml", tmp_path / "study"
    file.write_text(EXPERIMENT)
    command = ["compare", str(file), "--algorithms", "pfedhr", "--seeds", "0", "--out", str(out), "--plan.rounds", "2"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--pfedhr.distil-weight", "1e39"])
    printed, errors = capsys.readouterr()
    assert ended.value.code == 2
    assert "local" in printed
    assert "runs that failed: 1; tables are of the others" in errors
    assert "the loss is" in errors
    assert "missing" in (out / "tables.md").read_text()


def test_a_study_that_has_not_ended_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cells").mkdir()
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path)])
    assert "the study there has not ended: give the same command again" in capsys.readouterr().err
    below = tmp_path / "table2-small" / "mnist"
    below.mkdir(parents=True)
    (below / "about.json").write_text("{}")
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path)])
    assert f"several studies: give folders such as {below}" in capsys.readouterr().err


def test_seeds_are_told_where_methods_differ_in_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "toy.toml", tmp_path / "study"
    file.write_text(EXPERIMENT)
    main(["compare", str(file), "--algorithms", "local-public", "--seeds", "0,1,2", "--out", str(out), "--plan.rounds", "1"])
    assert "method  " in capsys.readouterr().out
    cells, clients = ((out / name).read_text().splitlines() for name in ("cells.csv", "clients.csv"))
    for name, lines in (("cells.csv", cells), ("clients.csv", clients)):
        kept = [line for line in lines if not line.startswith("toy,local-public,1,")]
        assert len(kept) < len(lines)
        (out / name).write_text("\n".join(kept) + "\n")
    main(["report", str(out)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[1] for row in rows if row[:1] == ["method"]] == ["seeds"] * 2
    assert [row[1] for row in rows if row[:1] in (["local"], ["local-public"])] == ["0-2", "0,2"] * 2


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ran"], ["unknown command 'ran'", "run, compare, reproduce, report, flower, inspect, presets"]),
        (["run"], ["a preset or a file first"]),
        (["run", "demoo"], ["'demoo'", "did you mean 'demo'"]),
        (["run", "absent.toml"], ["'absent.toml'", "presets are"]),
        (["run", "demo", "--algorithm.name", "fedavgg"], ["'fedavgg'", "local"]),
        (["run", "demo", "--plan.round", "3"], ["--plan.round ", "did you mean '--plan.rounds'"]),
        (["run", "demo", "--plan.rounds", "three"], ["plan.rounds = 'three'", "int was expected"]),
        (["run", "demo", "--plan.rounds", "3", "4"], ["--plan.rounds 3 4", "one value"]),
        (["run", "demo", "--plan.rounds"], ["--plan.rounds", "one value"]),
        (["run", "demo", "3"], ["'3'", "--plan.rounds 3"]),
        (["run", "demo", "--public.labelled", "maybe"], ["public.labelled = 'maybe'", "true or false"]),
        (["run", "demo", "--algorithm.stitch", "heavy"], ["algorithm.stitch = 'heavy'", "light, full"]),
        (["run", "demo", "--algorithm.distil-weight", "nan"], ["algorithm.distil_weight = nan"]),
        (["run", "demo", "--clients.count", "9000"], ["data.partition", "fewer clients"]),
        (["run", "demo", "--plan.active", "99"], ["plan.active = 99", "8 clients only"]),
        (["run", "demo", "--clients.models", "cnn9"], ["'cnn9'", "did you mean"]),
        (["run", "demo", "--algorithm.preset", "paper", "--algorithm.groups", "99"], ["algorithm.groups = 99", "blocks only"]),
        (["run", "demo", "--data.name", "mnist", "--data.dir", "/nowhere"], ["/nowhere", "train-images-idx3-ubyte"]),
        (["run", "demo", "--data.name", "emnist"], ["emnist", "mnist"]),
        (["run", "demo", "--name", ".."], ["name = '..'", "a word in UTF-8 without a slash or a zero byte"]),
        (["run", "demo", "--name", "."], ["name = '.'"]),
        (["run", "--resume", "/nowhere"], ["/nowhere", "not a run"]),
        (["run", "--resume", "/nowhere", "--plan.rounds", "3"], ["--resume", "goes on as it began"]),
        (["run", "--resume", "/nowhere", "--workers", "many"], ["--workers many", "a whole number from 1"]),
        (["run", "demo", "--out"], ["--out needs a value"]),
        (["inspect"], ["one MODEL"]),
        (["inspect", "cnn1", "--shape", "3x32"], ["--shape"]),
        (["inspect", "cnn7"], ["'cnn7'"]),
        (["inspect", "lstm", "--shape", "12"], ["'lstm'", "type torch.float32", "inputs that it takes"]),
        (["presets", "all"], ["no arguments"]),
        (["compare"], ["a preset or a file, and methods", "--algorithms"]),
        (["compare", "demo"], ["--algorithms"]),
        (["compare", "demo", "--algorithms", "fedmdd"], ["'fedmdd'", "did you mean 'fedmd'"]),
        (["compare", "demo", "--algorithms", "fedmd,fedmd"], ["fedmd,fedmd", "each once"]),
        (["compare", "demo", "--algorithms", "fedmd", "--seeds", "1,b"], ["1,b", "whole numbers"]),
        (["compare", "demo", "--algorithms", "fedmd", "--workers", "0"], ["--workers 0"]),
        (["compare", "demo", "--algorithms", "fedavg"], ["fedavg averages whole networks", "clients.models"]),
        (["compare", "demo", "--algorithms", "fedgh"], ["fedgh needs features of one width", "clients.features"]),
        (["compare", "demo", "--algorithms", "fedmd", "--public.labelled", "false"], ["fedmd needs labels", "public.labelled"]),
        (
            ["compare", "demo", "--algorithms", "fedmd", "--fedmd.consensus-epoch", "2"],
            ["did you mean '--fedmd.consensus_epochs'"],
        ),
        (["compare", "demo", "--algorithms", "fedmd", "--fedmd.consensus-epochs", "x"], ["fedmd.consensus_epochs = 'x'"]),
        (
            ["compare", "demo", "--algorithms", "fedmd", "--pfedhr.groups", "2"],
            ["--pfedhr.groups: pfedhr is not in --algorithms"],
        ),
        (["compare", "demo", "--algorithms", "fedmd", "--out", "/proc/no"], ["--out /proc/no: /proc cannot be written to"]),
        (["run", "demo", "--out", "/proc/no/such"], ["--out /proc/no/such: /proc cannot be written to", "name another"]),
        (["run", "demo", "--data.dir", "/nowhere"], ["data.dir = '/nowhere' is not used by fashion-mini", "data.name"]),
        (["run", "demo", "--clients.models", "cnn1,cnn2"], ["spaces between"]),
        (["run", "demo", "--data.examples", "20"], ["fewer than one each", "data.examples", "clients.count"]),
        (["run", "x" * 300], ["x" * 300 + ": File name too long"]),
        (["inspect", "cnn1", "--shape=-1,3,3"], ["--shape -1,3,3", "whole numbers from 1"]),
        (["inspect", "cnn1", "--shape", "0,3,3"], ["--shape 0,3,3", "whole numbers from 1"]),
        (["inspect", "cnn1", "--shape", "99999,9999,9999"], ["9,997,900,119,999 numbers", "give at most"]),
        (["inspect", "cnn1", "--classes", "0"], ["--classes 0", "a whole number from 1"]),
        (["report", __file__], [f"{__file__}/about.json", "give a folder"]),
        (["compare", "demo", "--algorithms", "fedmd", "--seeds", "0,00"], ["--seeds 0,00", "each once"]),
        (["compare", "demo", "--algorithms", "fedmd", "--seeds", "0", "--seeds", "1"], ["--seeds is given twice"]),
        (["compare", "demo", "--algorithms", "fedmd", "--seeds="], ["--seeds needs a value"]),
        (["compare", "demo", "--algorithms", "fedmd", "--seed", "7"], ["--seed", "give --seeds"]),
        (["compare", "demo", "--algorithms", "fedmd", "--compare-local=true"], ["--compare-local", "local is always there"]),
        (["run", "demo", "--plan.rounds", "3", "--plan.rounds=4"], ["--plan.rounds is given twice"]),
        (["run", "demo", "--plan.batch-size", "3", "--plan.batch_size", "4"], ["--plan.batch_size is given twice"]),
        (
            ["compare", "demo", "--algorithms", "fedmd", "--plan.rounds", "3", "--plan.rounds", "4"],
            ["--plan.rounds is given twice"],
        ),
        (
            ["compare", "demo", "--algorithms", "pfedhr", "--pfedhr.groups", "3", "--pfedhr.groups", "4"],
            ["--pfedhr.groups is given twice"],
        ),
        (["compare", "demo", "--algorithms", "fedmd", "--algorithm.name", "fedavg"], ["methods are named by --algorithms"]),
        (["compare", "demo", "--algorithms", "fedmd", "--fedmd.name=fedavg"], ["methods are named by --algorithms"]),
        (["compare", "demo", "--algorithms", "fedmd", "--algorithm.groups", "3"], ["which method", "--fedmd.groups"]),
        (
            ["compare", "demo", "--algorithms", "fedmd", "--public.share", "0"],
            ["fedmd needs public data", "public.share above 0"],
        ),
        (["run", "demo", "--public.share", "0"], ["pfedhr needs public data", "at the server", "public.share above 0"]),
        (["reproduce"], ["table2, table3, table4, figure1"]),
        (["reproduce", "table9"], ["not table9"]),
        (["reproduce", "table2", "--scale", "huge"], ["--scale huge", "small, short, paper"]),
        (["reproduce", "table2", "--data.dir", "/nowhere"], ["/nowhere", "train-images-idx3-ubyte"]),
        (["reproduce", "table2", "--datasets", "emnist"], ["emnist"]),
        (["reproduce", "benefit", "--methods", "fedmdd"], ["no method 'fedmdd'", "did you mean 'fedmd'", "pfedclub, feddf"]),
        (["report"], ["folders"]),
        (["report", "/nowhere"], ["/nowhere/about.json is missing"]),
    ],
)
def test_errors_are_one_paragraph_for_the_user(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert printed.startswith("pfedhr: ")
    assert len(printed.strip().splitlines()) == 1
    assert all(word in printed for word in words), printed
    assert list(tmp_path.iterdir()) == []
