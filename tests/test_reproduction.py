"""The paper's tables and figures: what they vary, what was published, and a run of them on a toy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
from test_run import EXPERIMENT
from test_study import Told, timeless
from torch import nn

from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.disk import write
from pfedhr.experiment import ExperimentError
from pfedhr.experiment_file import parse
from pfedhr.machine import machine, versions
from pfedhr.reproduction import SCALES, TARGETS, Scale, redraw, reproduce
from pfedhr.reproduction.beside import beside_sheet
from pfedhr.reproduction.published import Place, published, published_beside
from pfedhr.reproduction.targets import pieces_of, settings_of
from pfedhr.results import Results, ResultsError, Run, collect, read_results, told_runs, write_results
from pfedhr.study import Cell, Setting, cells_of

TOY = replace(parse(EXPERIMENT, "the test"), compare_local=False)
TOY = replace(TOY, plan=replace(TOY.plan, rounds=2))
TOY_SET = TOY.data.name
SCALE = Scale("toy", TOY, "mlp", "cnn1", "nearly everything")


def test_the_published_numbers_are_the_papers() -> None:
    assert len(published()) == 150
    assert published()[Place("table2", "labelled", "pfedhr", "svhn", "iid", "")] == (83.68, "text")
    assert published()[Place("table2", "unlabelled", "fccl", "cifar-10", "classes", "")] == (66.49, "text")
    assert published()[Place("table3", "labelled", "fedgh", "svhn", "classes", "")] == (72.78, "text")
    assert published()[Place("table4", "labelled", "pfedbayes", "mnist", "iid", "M1")] == (94.39, "text")
    assert published()[Place("figure4", "unlabelled", "pfedhr", "svhn", "classes", "5")] == (81, "bar")
    assert str(published_beside("figure5", "classes/labelled/3", "pfedhr", "svhn")) == "78.97 (drop)"
    assert published_beside("figure5", "classes/labelled/3", "local", "svhn") is None
    # Figures 3 to 6 hold Table 2's own setting, as far as bars can be read.
    for figure, value in (("figure3", "0.1"), ("figure4", "4"), ("figure5", "1"), ("figure6", "3")):
        assert published()[Place(figure, "labelled", "pfedhr", "svhn", "iid", value)].percent == pytest.approx(83.68, abs=0.25)


def settings(target: str, scale: str = "paper", data: str = "mnist") -> list[Setting]:
    return settings_of(TARGETS[target], SCALES[scale], data, "DIR")


def test_the_ablation_ends_with_the_default_form() -> None:
    pieces = {field: value for values in pieces_of(labelled=True).values() for field, value in values.items()}
    default = PFedHR.paper(**pieces, tuning_batch_size=PFedHR().tuning_batch_size)
    assert default == PFedHR()
    small = {"candidates": SCALES["small"].experiment.algorithm.candidates}
    for labelled, targets in (("labelled", "both"), ("unlabelled", "cohort")):
        form = replace(default, **small, tuning_targets=targets)
        (ablation,) = (one for one in settings("ablation", "small") if one.name == f"iid/{labelled}/")
        (benefit,) = (one for one in settings("benefit", "small") if one.name == f"iid/{labelled}/")
        assert list(ablation.methods.values())[-1] == benefit.methods["pfedhr"] == form


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("target", TARGETS)
def test_every_published_number_has_its_cell(target: str, scale: str) -> None:
    made = {setting.name: setting.methods for setting in settings(target, scale)}
    for place in published():
        if place.target == target:
            assert place.method in made[f"{place.partition}/{place.public}/{place.value}"], place
    for name, methods in made.items():
        partition, public, _ = name.split("/")
        assert partition in ("iid", "classes", "dirichlet")
        assert public in ("labelled", "unlabelled")
        assert next(iter(methods)) == "local"  # the question is always whether a client is better off


def test_the_paper_scale_is_the_papers_protocol() -> None:
    experiment = SCALES["paper"].experiment
    assert (experiment.clients.count, experiment.plan.active, experiment.plan.local_epochs) == (12, 4, 10)
    assert (experiment.plan.rounds, experiment.plan.batch_size, experiment.public.share) == (100, 10, 0.1)
    assert experiment.clients.models == ("cnn1", "cnn2", "cnn3", "cnn4")
    assert experiment.data.examples == 0
    method = experiment.algorithm
    assert (method.groups, method.candidates, method.tuning_epochs, method.stitch) == (4, 16, 3, "light")
    assert SCALES["small"].experiment.data.examples == 6000


def test_each_figure_varies_what_it_says() -> None:
    def varied(target: str, field: str) -> list[object]:
        return list(dict.fromkeys(getattr(setting.methods["pfedhr"], field) for setting in settings(target)))

    assert varied("figure4", "groups") == [3, 4, 5]
    assert varied("figure5", "stitch_layers") == [1, 2, 3]
    assert varied("figure6", "tuning_epochs") == [3, 4, 5]
    assert list(dict.fromkeys(setting.experiment.public.share for setting in settings("figure3"))) == [0.02, 0.05, 0.1]
    assert {setting.experiment.public.name for setting in settings("figure1")} == {"", "fashion-mnist"}
    assert {setting.experiment.clients.models for setting in settings("table4")} == {("cnn1",), ("cnn4",)}
    assert {setting.experiment.clients.count for setting in settings("table3")} == {100}
    assert all(setting.methods["pfedhr"].average_structures for setting in settings("table3"))


def test_benefit_sets_the_default_form_beside_every_other() -> None:
    always = {"local", "fedproto", "fedtgp", "pfedclub", "feddf", "paper", "own", "pfedhr"}
    beside = {"labelled": {"local-public", "fedmd", "fedgh"}, "unlabelled": {"fedkemf", "fccl"}}
    made = settings("benefit", "small")
    assert [one.name.split("/")[0] for one in made] == [name for name in ("iid", "classes", "dirichlet") for _ in beside]
    for setting in made:
        partition, public, _ = setting.name.split("/")
        assert setting.methods.keys() == always | beside[public]
        assert setting.methods["pfedclub"].candidates == setting.methods["paper"].candidates == 4
        assert setting.experiment.data.alpha == (0.3 if partition == "dirichlet" else 0.5)


def test_targets_share_their_cells() -> None:
    seeds = [0]
    table, figure = ({cell.folder for cell in cells_of(settings(name), seeds)} for name in ("table2", "figure4"))
    # Of figure 4 only the other two numbers of groups are new, each in two partitions, labelled and not.
    assert len(figure - table) == 8
    # The default form with public data of its own set is in `benefit`, the baselines with another in Figure 1.
    exchange, *others = ({one.folder for one in cells_of(settings(name), seeds)} for name in ("exchange", "benefit", "figure1"))
    assert len(exchange.difference(*others)) == 4


def test_a_set_without_another_is_refused() -> None:
    with pytest.raises(ExperimentError, match=r"no other set is known for 'digits'.*--datasets"):
        settings("figure1", data="digits")


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


COMMITTED = sorted(path.parent for path in (Path(__file__).parents[1] / "docs" / "results").glob("*/*/cells.csv"))


@pytest.mark.parametrize("folder", COMMITTED, ids=[f"{folder.parent.name}-{folder.name}" for folder in COMMITTED])
def test_committed_results_are_made_of_their_rows(folder: Path, tmp_path: Path) -> None:
    for name in ("about.json", "cells.csv", "clients.csv"):
        write(tmp_path / name, (folder / name).read_bytes())
    redraw(tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


@pytest.mark.parametrize("folder", COMMITTED, ids=[f"{folder.parent.name}-{folder.name}" for folder in COMMITTED])
def test_committed_runs_are_named_by_their_experiments(folder: Path) -> None:
    named = {row.folder.split("/")[0] for row in read_results(folder).cells}
    experiments = {path.stem: parse(path.read_text(), str(path)) for path in (folder / "experiments").iterdir()}
    assert {Cell("", "", 0, experiment).kind for experiment in experiments.values()} == named == experiments.keys()


def test_committed_tables_tell_the_same_of_a_run() -> None:
    told: dict[tuple[str, str], list[Run]] = {}
    for folder in COMMITTED:
        for kept, run in told_runs([folder]).items():
            told.setdefault((folder.name, kept), []).append(run)
    shared = {kept: runs for kept, runs in told.items() if len(runs) > 1}
    assert shared
    unlike = {
        kept
        for kept, runs in shared.items()
        if len({tuple((row.client, row.accuracy, row.teacher_accuracy) for row in run.clients) for run in runs}) > 1
    }
    assert not unlike


def test_there_are_committed_results_of_three_sets() -> None:
    assert {folder.name for folder in COMMITTED} >= {"mnist", "fashion-mnist", "cifar-10"}
