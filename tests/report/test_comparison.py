"""Tables of comparisons: known values, and their forms on a page."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from pfedhr.report.comparison import (
    comparison_records,
    comparison_sheet,
    differences,
    method_rows,
    points,
    server_sheet,
    structure_sheet,
)
from pfedhr.report.sheet import Sheet
from pfedhr.report.study import _made
from pfedhr.results import CellRow, ClientRow, Results, ResultsError
from pfedhr.statistics import Interval

ACCURACIES = {  # by method: seeds, then clients
    "local": [[0.5, 0.5], [0.6, 0.8]],
    "pfedhr": [[0.7, 0.5], [0.6, 0.7]],
    "fedmd": [[0.6, 0.6], [0.7, 0.9]],
}


def results() -> Results:
    cells, clients = list[CellRow](), list[ClientRow]()
    for method, seeds in ACCURACIES.items():
        for seed, values in enumerate(seeds):
            teaches = method == "pfedhr"
            costs = dict.fromkeys(CellRow.__dataclass_fields__, 0) | {
                **{"setting": "x", "method": method, "seed": seed, "rounds": 2, "active": 5, "public_use": "none"},
                **{"mean": sum(values) / 2, "best": max(values), "worst": min(values), "worst_tenth": min(values)},
                **{"deviation": 0.1, "bytes_up": 20_000_000, "bytes_down": 0, "client_seconds": 3.0, "server_seconds": 1.0},
                **{
                    "tune_seconds": 0.5 * (method != "local"),
                    "candidates": 4.0 if teaches else None,
                    "teacher_ratio": 0.25 if teaches else None,
                },
            }
            cells.append(CellRow(**costs))  # type: ignore[arg-type]
            for number, accuracy in enumerate(values):
                model = ("cnn1", "mlp")[number]
                clients.append(ClientRow("x", method, seed, f"client0{number}", model, 1, "0 1", 1, 1, accuracy, None))
    return Results(tuple(cells), tuple(clients))


def test_a_method_is_compared_pair_by_pair() -> None:
    rows = {row.method: row for row in method_rows(results())}
    assert differences(results().accuracies("fedmd"), results().accuracies("local")) == [
        pytest.approx([0.1, 0.1]),
        pytest.approx([0.1, 0.1]),
    ]
    fedmd = rows["fedmd"]
    assert fedmd.to_alone is not None
    assert (fedmd.to_alone.mean, fedmd.to_alone.low, fedmd.to_alone.high) == pytest.approx((0.1, 0.1, 0.1))
    assert (fedmd.better, fedmd.worse, fedmd.pairs) == (4, 0, 4)
    assert fedmd.mean == pytest.approx((0.6 + 0.8) / 2)
    assert fedmd.spread == pytest.approx(0.2 / 2**0.5)
    pfedhr = rows["pfedhr"]
    assert (pfedhr.better, pfedhr.worse, pfedhr.to_reference) == (1, 1, None)
    assert pfedhr.to_alone is not None
    assert pfedhr.to_alone.mean == pytest.approx((0.2 + 0 + 0 - 0.1) / 4)
    assert pfedhr.to_alone.low < 0 < pfedhr.to_alone.high
    assert (rows["local"].to_alone, rows["local"].better) == (None, None)
    assert rows["local"].to_reference is not None
    assert rows["local"].to_reference.mean == pytest.approx(-pfedhr.to_alone.mean)
    # 20 MB in two rounds of five clients are 2 MB a client and round.
    assert (fedmd.megabytes_up, fedmd.client_seconds, fedmd.server_seconds) == (2.0, 1.5, 0.5)


def test_the_sheet_says_it_in_points() -> None:
    sheet = comparison_sheet(method_rows(results()), "x")
    fedmd = dict(zip(sheet.headings, sheet.rows[2], strict=True))
    assert fedmd["mean"] == "70.00 ± 14.14"
    assert fedmd["to local"] == "+10.00 [+10.00, +10.00]"
    assert fedmd["better / worse off"] == "4 / 0 of 4"
    assert points(Interval(-0.0123, -0.02, 0.001)) == "-1.23 [-2.00, +0.10]"
    assert dict(zip(sheet.headings, sheet.rows[0], strict=True))["to local"] == ""


def test_records_have_the_numbers_in_full() -> None:
    rows = comparison_records(method_rows(results()))
    assert [row["method"] for row in rows] == ["local", "pfedhr", "fedmd"]
    assert rows[2]["to_alone_low"] == pytest.approx(0.1)
    assert (rows[0]["to_alone_mean"], rows[1]["to_reference_mean"]) == (None, None)
    assert len({tuple(row) for row in rows}) == 1


def test_methods_are_compared_over_the_seeds_that_both_have() -> None:
    whole = results()
    cells = tuple(row for row in whole.cells if (row.method, row.seed) != ("local", 0))
    clients = tuple(row for row in whole.clients if (row.method, row.seed) != ("local", 0))
    rows = {row.method: row for row in method_rows(Results(cells, clients))}
    assert (rows["local"].seeds, rows["local"].spread) == ((1,), None)
    assert (rows["fedmd"].seeds, rows["fedmd"].better, rows["fedmd"].pairs) == ((0, 1), 2, 2)
    none = tuple(row for row in clients if row.method != "local")
    rows = {row.method: row for row in method_rows(Results(cells, none))}
    assert (rows["fedmd"].to_alone, rows["fedmd"].pairs) == (None, None)
    sheet = comparison_sheet(list(rows.values()), "x").filled()
    assert "to local" not in sheet.headings
    assert "to pfedhr" in sheet.headings


def test_a_table_that_lacks_a_client_is_refused() -> None:
    whole = results()
    clients = tuple(row for row in whole.clients if (row.method, row.seed, row.client) != ("local", 1, "client00"))
    with pytest.raises(ResultsError, match="client00 is among the clients of seed 1 under one method and not under another"):
        method_rows(Results(whole.cells, clients))


def test_unlike_seeds_are_told() -> None:
    whole = results()
    cells = tuple(row for row in whole.cells if (row.method, row.seed) != ("local", 0))
    rows = method_rows(Results(cells, whole.clients))
    assert [row["seeds"] for row in comparison_records(rows)] == ["1", "0,1", "0,1"]
    sheet = comparison_sheet(rows, "x").only("method", "seeds")
    assert list(map(list, sheet.rows)) == [["local", "1"], ["pfedhr", "0,1"], ["fedmd", "0,1"]]
    mixed = Results(cells, whole.clients)
    assert structure_sheet(mixed, "x").only("method", "seeds").rows == [["local", "1"], ["pfedhr", "0,1"], ["fedmd", "0,1"]]
    assert server_sheet(mixed, "x").only("method", "seeds").rows == [["pfedhr", "0,1"], ["fedmd", "0,1"]]
    assert "seeds" not in (*structure_sheet(whole, "x").headings, *server_sheet(whole, "x").headings)


def test_versions_are_told_once_each() -> None:
    versions = ["one", "one; two", "two"]
    cells = [
        replace(row, folder=one, versions=one, machine="a", date="b")
        for row, one in zip(results().cells, versions * 2, strict=True)
    ]
    assert _made(Results(tuple(cells), ()))["versions"] == "one; two"


def test_structures_and_stages_have_their_means() -> None:
    assert structure_sheet(results(), "x").rows == [
        ["local", "55.00", "65.00"],
        ["pfedhr", "65.00", "60.00"],
        ["fedmd", "65.00", "75.00"],
    ]
    rows = server_sheet(results(), "x").rows
    assert rows[0] == ["pfedhr", "0.250", "4.0", "+0.25"]
    assert rows[1] == ["fedmd", "0.250", "", ""]
    assert server_sheet(Results((), ()), "x").rows == []


def test_a_sheet_is_markdown_and_latex() -> None:
    sheet = Sheet("T_1", ("method", "mean"), [["per_fedavg", "50 ± 1 %"]])
    assert sheet.markdown() == "**T_1**\n\n| method | mean |\n| --- | ---: |\n| per_fedavg | 50 ± 1 % |\n"
    assert r"per\_fedavg & 50 $\pm$ 1 \% \\" in sheet.latex()
    assert sheet.latex().count(r"\begin{tabular}{lr}") == 1
    assert r"\caption{T\_1}" in sheet.latex()
    assert r"\textbackslash{}\$\{" in Sheet("", ["a"], [["\\${"]]).latex()
    odd = Sheet("a|b<c>", ["x & y"], [["*^|\\"]])
    assert odd.markdown() == "**a\\|b&lt;c>**\n\n| x &amp; y |\n| --- |\n| *^\\|\\\\ |\n"
    assert r"\caption{a\textbar{}b\textless{}c\textgreater{}}" in odd.latex()
    assert "x \\& y \\\\\n" in odd.latex()
    assert r"*\textasciicircum{}\textbar{}\textbackslash{}" in odd.latex()
    with (console := Console(width=60)).capture() as captured:
        console.print(Sheet("dose [v2]", ("method", "mean"), [["mine [v2]", "50"]]).console())
    assert captured.get().count("[v2]") == 2
    assert sheet.only("mean").rows == [["50 ± 1 %"]]
