from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from test_run import EXPERIMENT

from pfedhr.cli import COMMANDS, main
from pfedhr.launch import stored_experiment


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


def test_inspect_prints_the_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", "cnn1"])
    printed = capsys.readouterr().out
    assert "4 blocks, 97,384 parameters" in printed
    assert "10 x 14 x 14" in printed
    main(["inspect", "mlp", "--shape", "12", "--classes", "3"])
    assert "4 blocks, 44,675 parameters" in capsys.readouterr().out


def test_every_field_of_an_experiment_is_in_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "demo", "--algorithm.name", "local", "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "--plan.evaluate-every" in printed
    assert "--algorithm.groups" not in printed


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
        (["ran"], ["unknown command 'ran'", "run, inspect, presets"]),
        (["run"], ["a preset or a file first"]),
        (["run", "demoo"], ["'demoo'", "did you mean 'demo'"]),
        (["run", "absent.toml"], ["'absent.toml'", "presets are"]),
        (["run", "demo", "--algorithm.name", "fedavgg"], ["'fedavgg'", "local"]),
        (["run", "demo", "--plan.round", "3"], ["--plan.round ", "did you mean '--plan.rounds'"]),
        (["run", "demo", "--plan.rounds", "three"], ["plan.rounds = 'three'", "int was expected"]),
        (["run", "demo", "--plan.rounds", "3", "4"], ["--plan.rounds 3 4", "one value"]),
        (["run", "demo", "--plan.rounds"], ["--plan.rounds", "one value"]),
        (["run", "demo", "3"], ["'3'", "--plan.rounds 3"]),
        (["run", "demo", "--public.labelled", "maybe"], ["public.labelled = 'maybe'", "bool"]),
        (["run", "demo", "--algorithm.stitch", "heavy"], ["algorithm.stitch = 'heavy'", "light, full"]),
        (["run", "demo", "--algorithm.distil-weight", "nan"], ["algorithm.distil_weight = nan"]),
        (["run", "demo", "--clients.count", "9000"], ["data.partition", "fewer clients"]),
        (["run", "demo", "--plan.active", "99"], ["plan.active = 99", "8 clients only"]),
        (["run", "demo", "--clients.models", "cnn9"], ["'cnn9'", "did you mean"]),
        (["run", "demo", "--algorithm.groups", "99"], ["algorithm.groups = 99", "blocks only"]),
        (["run", "demo", "--data.name", "mnist", "--data.dir", "/nowhere"], ["/nowhere", "train-images-idx3-ubyte"]),
        (["run", "demo", "--data.name", "emnist"], ["emnist", "mnist"]),
        (["run", "--resume", "/nowhere"], ["/nowhere", "not a run"]),
        (["run", "--resume", "/nowhere", "--plan.rounds", "3"], ["--resume", "goes on as it began"]),
        (["run", "--resume", "/nowhere", "--workers", "many"], ["--workers N"]),
        (["run", "demo", "--out"], ["--out needs a value"]),
        (["inspect"], ["one MODEL"]),
        (["inspect", "cnn1", "--shape", "3x32"], ["--shape"]),
        (["inspect", "cnn7"], ["'cnn7'"]),
        (["inspect", "lstm", "--shape", "12"], ["'lstm'", "type torch.float32", "inputs that it takes"]),
        (["presets", "all"], ["no arguments"]),
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
