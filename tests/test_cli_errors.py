"""Every wrong input on the command line is one paragraph for the user."""

from __future__ import annotations

from pathlib import Path

import pytest

from pfedhr.cli import main


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
