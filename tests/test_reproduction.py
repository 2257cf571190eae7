"""The paper's tables and figures: what they vary, what was published, and a run of them on a toy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
from torch import nn
from toy_runs import EXPERIMENT
from toy_studies import Told, timeless

from pfedhr.disk import write
from pfedhr.experiment_file import parse
from pfedhr.machine import machine, versions
from pfedhr.reproduction import TARGETS, Scale, redraw, reproduce
from pfedhr.reproduction.beside import beside_sheet
from pfedhr.reproduction.targets import settings_of
from pfedhr.results import Results, ResultsError, collect, read_results, write_results
from pfedhr.study import cells_of

TOY = replace(parse(EXPERIMENT, "the test"), compare_local=False)


TOY = replace(TOY, plan=replace(TOY.plan, rounds=2))


TOY_SET = TOY.data.name


SCALE = Scale("toy", TOY, "mlp", "cnn1", "nearly everything")


def run(target: str, folder: Path, seeds: Sequence[int] = (0, 1)) -> Path:
    (place,), failed = reproduce(TARGETS[target], SCALE, [TOY_SET], "", seeds, folder, 1, Told())
    assert failed == {}
    return place


@pytest.fixture(scope="module")
def figure6(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run("figure6", tmp_path_factory.mktemp("reproduce"))


def test_a_target_leaves_its_tables_and_figure(figure6: Path) -> None:
    results = read_results(figure6)
    assert results.settings == [f"{partition}/labelled/{value}" for value in (3, 4, 5) for partition in ("iid", "classes")]
    cells = cells_of(settings_of(TARGETS["figure6"], SCALE, TOY_SET, ""), [0, 1])
    assert timeless(collect(cells, figure6.parents[1] / "cells")) == timeless(results)
    about = json.loads((figure6 / "about.json").read_text())
    assert about["command"].startswith("pfedhr reproduce figure6 --scale toy --seeds 0,1")
    assert about["cut"] == "nearly everything"
    tables = (figure6 / "tables.md").read_text()
    for words in ("epochs", "iid/labelled/3", "mean accuracy by structure", "to local", versions(), machine()):
        assert words in tables
    assert "- runs: 16, " in tables  # of 24 rows, for local is the same whatever is tuned
    kinds = {path.stem: parse(path.read_text(), str(path)) for path in (figure6 / "experiments").iterdir()}
    assert set(kinds) == {row.folder.split("/")[0] for row in results.cells}
    assert sorted(one.algorithm.tuning_epochs for one in kinds.values() if one.name == "pfedhr") == [3, 3, 4, 4, 5, 5]
    assert (figure6 / "table-classes-labelled-4.csv").read_text().count("\n") == 3
    assert "<svg" in (figure6 / "figure.svg").read_text()


def test_tables_and_figures_are_made_of_the_rows_alone(figure6: Path, tmp_path: Path) -> None:
    kept = ("about.json", "cells.csv", "clients.csv")
    for name in kept:
        write(tmp_path / name, (figure6 / name).read_bytes())
    redraw(tmp_path)
    made = {path.name for path in figure6.iterdir() if path.is_file()}
    assert {path.name for path in tmp_path.iterdir()} == made
    for path in (figure6 / name for name in made):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_target_can_be_run_with_some_of_its_methods(tmp_path: Path) -> None:
    told = Told()
    (place,), failed = reproduce(TARGETS["table2"], SCALE, [TOY_SET], "", [0], tmp_path, 1, told, ["local-public", "fedmd"])
    assert failed == {}
    results = read_results(place)
    assert {setting: results.of(setting).methods for setting in results.settings} == {
        f"{partition}/{public}/": ["local", *(("local-public", "fedmd") if public == "labelled" else ())]
        for partition in ("iid", "classes")
        for public in ("labelled", "unlabelled")
    }
    command = json.loads((place / "about.json").read_text())["command"]
    assert "--methods local-public,fedmd --datasets" in command


def test_seeds_are_added_to_tables_whose_runs_are_gone(figure6: Path, tmp_path: Path) -> None:
    place = tmp_path / figure6.parent.name / figure6.name
    shutil.copytree(figure6, place)
    write(place / "experiments" / "former.toml", b"of a method that the target had before")
    told = Told()
    assert reproduce(TARGETS["figure6"], SCALE, [TOY_SET], "", [0, 1, 2], tmp_path, 1, told) == ([place], {})
    assert told.began == (24, 16)
    assert {path.parent.name for path in (tmp_path / "cells").rglob("clients.csv")} == {"seed2"}
    before, after = read_results(figure6), read_results(place)
    assert [row for row in after.cells if row.seed < 2] == list(before.cells)
    assert [row for row in after.clients if row.seed < 2] == list(before.clients)
    assert len(after.cells) == 36
    assert {path.name for path in (place / "experiments").iterdir()} == {
        path.name for path in (figure6 / "experiments").iterdir()
    }
    # A later folder tells otherwise of the same runs, by the rules of another day: a table goes on telling what it told.
    other = tmp_path / "later" / figure6.name
    write_results(Results(tuple(replace(row, date="1970-01-01") for row in after.cells), after.clients), other)
    assert reproduce(TARGETS["figure6"], SCALE, [TOY_SET], "", [0, 1, 2], tmp_path, 1, Told()) == ([place], {})
    assert read_results(place) == after
    shutil.rmtree(other.parent)
    kept = (place / "cells.csv").read_bytes()
    with pytest.raises(ResultsError, match="tells of 16 runs whose files are gone"):
        reproduce(TARGETS["figure6"], SCALE, [TOY_SET], "", [2], tmp_path, 1, Told())
    assert (place / "cells.csv").read_bytes() == kept
    (place / "cells.csv").write_text("nonsense")
    with pytest.raises(ResultsError, match="holds no rows"):
        reproduce(TARGETS["figure6"], SCALE, [TOY_SET], "", [0], tmp_path, 1, Told())


def test_published_numbers_stand_beside_ours(figure6: Path) -> None:
    sheet = beside_sheet(TARGETS["figure6"], "small", read_results(figure6), "svhn")
    assert list(sheet.headings[:3]) == ["public", "epochs", "method"]
    rows = {(row[1], row[2]): row for row in sheet.rows}
    assert len(rows) == 6
    assert (rows["4", "pfedhr"][4], rows["4", "pfedhr"][6]) == ("81.2 (bar)", "80.9 (bar)")
    assert (rows["4", "local"][4], rows["4", "local"][6]) == ("", "")
    assert all("±" in row[3] and "±" in row[5] for row in sheet.rows)


def test_a_title_speaks_of_published_numbers_where_there_are_any(figure6: Path) -> None:
    results = read_results(figure6)
    there, none = (beside_sheet(TARGETS["figure6"], "paper", results, data).title for data in ("svhn", "mnist"))
    assert there.endswith("mean accuracy in percent; the published numbers are of other splits")
    assert none.endswith("mean accuracy in percent")


def test_seeds_stand_beside_ours_where_they_differ(figure6: Path) -> None:
    results = read_results(figure6)
    assert not any("seeds" in heading for heading in beside_sheet(TARGETS["figure6"], "small", results, "svhn").headings)
    lost = results.cells[0]
    one = [row for row in results.cells if (row.setting, row.method) == (lost.setting, lost.method)]
    fewer = Results(tuple(row for row in results.cells if row != lost), results.clients)
    sheet = beside_sheet(TARGETS["figure6"], "small", fewer, "svhn")
    assert list(sheet.headings[3:6]) == ["IID, ours", "IID, seeds", "IID, published"]
    told = [row[4] for row in sheet.rows] + [row[7] for row in sheet.rows]
    assert len(one) == 2
    assert sorted(set(told)) == ["0,1", "1"]
    assert told.count("1") == 1


def test_figure7_draws_what_one_client_was_given(tmp_path: Path) -> None:
    place = run("figure7", tmp_path, [0])
    drawn = json.loads((place / "teachers.json").read_text())
    assert 1 <= len(drawn["rounds"]) <= 2
    for blocks in drawn["rounds"].values():
        indices = [block["index"] for block in blocks]
        assert indices == sorted(set(indices))  # R1
        assert {block["model"] for block in blocks} <= {"cnn1", "mlp"}
        assert {block["kind"] for block in blocks} <= {"conv", "fc"}
    figure = (place / "figure.svg").read_text()
    assert drawn["client"] in figure
    assert all(f"round {number}" in figure for number in drawn["rounds"])
    shutil.rmtree(tmp_path / "cells")
    assert run("figure7", tmp_path, [0]) == place  # of the rows alone: what was drawn stays
    assert json.loads((place / "teachers.json").read_text()) == drawn


def one_layer(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A network of one block: of such no chain of two groups can be made."""
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), classes))


def test_without_a_teacher_there_is_nothing_to_draw(tmp_path: Path) -> None:
    flat = replace(TOY, clients=replace(TOY.clients, models=(f"{__name__}:one_layer",)))
    scale = replace(SCALE, experiment=replace(flat, algorithm=replace(flat.algorithm, groups=2)))
    (place,), failed = reproduce(TARGETS["figure7"], scale, [TOY_SET], "", [0], tmp_path, 1, Told())
    assert failed == {}
    assert json.loads((place / "teachers.json").read_text())["rounds"] == {}
    assert not (place / "figure.svg").exists()


def test_tables_are_made_of_what_did_not_fail(tmp_path: Path) -> None:
    # The loss beside a teacher is not finite with this weight, and learning alone does without teachers.
    broken = replace(SCALE, experiment=replace(TOY, algorithm=replace(TOY.algorithm, distil_weight=1e39)))
    (place,), failed = reproduce(TARGETS["figure7"], broken, [TOY_SET], "", [0], tmp_path, 1, Told())
    assert len(failed) == 1
    assert read_results(place).methods == ["local"]
    assert json.loads((place / "about.json").read_text())["missing"] == "1 of 2 runs, which failed or were not begun"


def test_a_figure_has_what_did_not_fail(tmp_path: Path, figure6: Path) -> None:
    place = tmp_path / "figure6"
    shutil.copytree(figure6, place)
    results = read_results(place)
    first = results.settings[0]
    for lost in (first, results.settings[2]):
        cells = tuple(row for row in results.cells if (row.setting, row.method) != (lost, "pfedhr"))
        clients = tuple(row for row in results.clients if (row.setting, row.method) != (lost, "pfedhr"))
        write_results(Results(cells, clients), place)
        (place / "figure.svg").unlink()
        redraw(place)
        assert "pfedhr" in (place / "figure.svg").read_text()


def test_what_is_no_study_is_not_drawn(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"about\.json is missing or damaged"):
        redraw(tmp_path)
