"""Metrics computed once, from what runs leave, and kept as CSV."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_studies import BASE, TINY

from pfedhr.results import CellRow, ClientRow, Results, ResultsError, collect, read_results, write_results
from pfedhr.study import Cell

CLIENTS = """\
client,model,parameters,train,test,classes,accuracy,teacher_accuracy,alone_accuracy
client00,cnn1,100,20,5,0 1,0.6,0.2,
client01,mlp,50,20,5,0 1,1.0,,
client02,mlp,50,20,5,2 3,0.8,0.4,
"""
ROUNDS = [
    {
        **{"round": 1, "evaluated": True, "accuracy": {"mean": 0.9}, "bytes_up": 10, "bytes_down": 1},
        **{"train_seconds": 2.0, "server_seconds": 1.0, "tune_seconds": 0.5, "match_seconds": 0.25, "candidates": 4},
        "size_ratios": {"client00": 1.0, "client01": 3.0},
    },
    {
        **{"round": 2, "evaluated": False, "accuracy": {"mean": 0.9}, "bytes_up": 30, "bytes_down": 7},
        **{
            "train_seconds": 4.0,
            "server_seconds": 2.0,
            "tune_seconds": 1.5,
            "candidates": 2,
            "size_ratios": {"client02": -0.5},
        },
    },
    {
        **{"round": 3, "evaluated": True, "accuracy": {"mean": 0.8}, "bytes_up": 20, "bytes_down": 2},
        **{"train_seconds": 6.0, "server_seconds": 3.0, "candidates": 0},
    },
]


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Cell, Path]:
    cell = Cell("iid/labelled/", "pfedhr", 7, BASE)
    folder = tmp_path / "cells" / cell.folder
    folder.mkdir(parents=True)
    (folder / "clients.csv").write_text(CLIENTS)
    (folder / "rounds.jsonl").write_text("".join(json.dumps(record) + "\n" for record in ROUNDS))
    (folder / "made.json").write_text('{"versions": "1", "machine": "a", "date": "2020-02-02"}')
    return cell, tmp_path / "cells"


def test_every_metric_has_its_known_value(finished: tuple[Cell, Path]) -> None:
    cell, store = finished
    results = collect([cell], store)
    (row,) = results.cells
    assert (row.setting, row.method, row.seed, row.rounds, row.active) == ("iid/labelled/", "pfedhr", 7, 3, BASE.plan.active)
    assert row.public_use == TINY.public_use(labelled=True) == "labels at the server"
    assert row.mean == pytest.approx((0.6 + 1.0 + 0.8) / 3)
    assert row.best == 0.9
    assert (row.worst, row.worst_tenth) == (0.6, 0.6)
    assert row.deviation == pytest.approx(((0.2**2 + 0.2**2 + 0) / 3) ** 0.5)
    assert (row.bytes_up, row.bytes_down) == (60, 10)
    assert (row.client_seconds, row.server_seconds) == (12.0, 6.0)
    assert (row.tune_seconds, row.match_seconds, row.group_seconds) == (2.0, 0.25, 0.0)
    assert row.candidates == (4 + 2 + 0) / 3
    assert (row.folder, row.versions, row.machine, row.date) == (cell.folder, "1", "a", "2020-02-02")
    assert row.teacher_ratio == pytest.approx((1.0 + 3.0 - 0.5) / 3)
    assert [one.teacher_accuracy for one in results.clients] == [0.2, None, 0.4]
    assert results.accuracies("pfedhr") == {7: {"client00": 0.6, "client01": 1.0, "client02": 0.8}}
    assert results.accuracies("local") == {}


def test_epsilon_is_read_where_there_is_such_a_column(finished: tuple[Cell, Path], tmp_path: Path) -> None:
    cell, store = finished
    assert [one.epsilon for one in collect([cell], store).clients] == [None, None, None]
    first, *rows = CLIENTS.splitlines()
    spent = ("1.5", "", "0.0")
    lines = [f"{first},epsilon", *(f"{row},{one}" for row, one in zip(rows, spent, strict=True))]
    (store / cell.folder / "clients.csv").write_text("\n".join(lines) + "\n")
    results = collect([cell], store)
    assert [one.epsilon for one in results.clients] == [1.5, None, 0.0]
    write_results(results, tmp_path / "tables")
    assert read_results(tmp_path / "tables") == results


def test_a_method_without_teachers_has_no_ratio(finished: tuple[Cell, Path]) -> None:
    cell, store = finished
    plain = [{name: value for name, value in record.items() if name not in ("candidates", "size_ratios")} for record in ROUNDS]
    (store / cell.folder / "rounds.jsonl").write_text("".join(json.dumps(record) + "\n" for record in plain))
    (row,) = collect([cell], store).cells
    assert row.candidates is None
    assert row.teacher_ratio is None


def test_rows_survive_their_files(finished: tuple[Cell, Path], tmp_path: Path) -> None:
    cell, store = finished
    results = collect([cell], store)
    write_results(results, tmp_path / "tables")
    assert read_results(tmp_path / "tables") == results
    assert (tmp_path / "tables" / "cells.csv").read_text().splitlines()[0].startswith("setting,method,seed,rounds")


def test_settings_and_methods_come_in_order_of_appearance() -> None:
    def row(setting: str, method: str) -> CellRow:
        numbers = dict.fromkeys(CellRow.__dataclass_fields__, 0)
        return CellRow(**numbers | {"setting": setting, "method": method})  # type: ignore[arg-type]

    def client(setting: str, method: str) -> ClientRow:
        return ClientRow(setting, method, 0, "client00", "mlp", 1, "0", 1, 1, 1.0, None)

    places = [("b", "x"), ("a", "y"), ("b", "y")]
    results = Results(tuple(row(*place) for place in places), tuple(client(*place) for place in places))
    assert (results.settings, results.methods) == (["b", "a"], ["x", "y"])
    assert [one.method for one in results.of("b").cells] == ["x", "y"]
    assert [one.method for one in results.of("a").clients] == ["y"]


def test_a_damaged_run_is_named(finished: tuple[Cell, Path]) -> None:
    cell, store = finished
    (store / cell.folder / "clients.csv").write_text(CLIENTS.replace("0.8", "abc"))
    with pytest.raises(ResultsError, match=rf"{cell.folder} is damaged .*abc.*delete that folder"):
        collect([cell], store)


@pytest.mark.parametrize("name", ["cells.csv", "clients.csv"])
def test_a_row_of_more_or_fewer_cells_than_the_head_is_refused(finished: tuple[Cell, Path], name: str, tmp_path: Path) -> None:
    cell, store = finished
    write_results(collect([cell], store), tmp_path)
    sound = (tmp_path / name).read_text()
    for damaged in (f"{sound.rstrip()},more\n", sound.rstrip().rpartition(",")[0] + "\n"):
        (tmp_path / name).write_text(damaged)
        with pytest.raises(ResultsError, match="are not those of results"):
            read_results(tmp_path)


def test_missing_and_other_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"cells\.csv is missing: give a folder"):
        read_results(tmp_path)
    (tmp_path / "cells.csv").write_text("setting,method\niid,local\n")
    (tmp_path / "clients.csv").write_text("setting,method\niid,local\n")
    with pytest.raises(ResultsError, match="are not those of results"):
        read_results(tmp_path)
    (tmp_path / "cells.csv").write_text("setting,method\n")
    (tmp_path / "clients.csv").write_text("setting,method\n")
    with pytest.raises(ResultsError, match="holds no rows"):
        read_results(tmp_path)
