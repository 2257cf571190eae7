"""Studies on the command line: methods compared, tables made of what there is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from toy_runs import EXPERIMENT

from pfedhr.arguments import UsageError, folder
from pfedhr.cli import main
from pfedhr.cli_studies import BASE, shared_by_all
from pfedhr.experiment_file import dump, load_experiment, override
from pfedhr.stored import stored_experiment


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
