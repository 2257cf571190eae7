"""What is printed of a run: who is better off than alone, and by how much."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from rich.console import Console
from rich.table import Table

from pfedhr.models import ModelSpec
from pfedhr.report.console import CellsDisplay, better_off, block_table, client_table, show
from pfedhr.run import ClientOutcome

ROWS = [(0.9, 0.8, 0.7), (0.6, 0.6, None), (0.5, 0.76, 0.25), (0.7, 0.4, 0.6)]
OUTCOMES = [
    ClientOutcome(f"client0{number}", "mlp", 10, 20, 5, (0, 1), own, teacher, alone, None)
    for number, (own, alone, teacher) in enumerate(ROWS)
]


def printed(outcomes: list[ClientOutcome]) -> dict[str, list[str]]:
    """The cells of the table below its head, by the first of each row."""
    console = Console(width=200, color_system=None)
    with console.capture() as captured:
        console.print(client_table(outcomes, "fedmd"))
    rows = [line.split() for line in captured.get().splitlines()]
    return {row[0]: row[1:] for row in rows if row and (row[0].startswith("client0") or row[0] in ("client", "mean", "worst"))}


def test_gains_are_those_over_learning_alone() -> None:
    rows = printed(OUTCOMES)
    assert rows["client"][-4:] == ["fedmd", "alone", "gain", "teacher"]
    assert rows["client00"][-4:] == ["0.900", "0.800", "+0.100", "0.700"]
    assert rows["client01"][-3:] == ["0.600", "0.600", "+0.000"]
    assert rows["client02"][-4:] == ["0.500", "0.760", "-0.260", "0.250"]
    assert rows["mean"] == ["0.675", "0.640", "+0.035", "0.517"]
    assert rows["worst"] == ["0.500", "0.400", "-0.260", "0.250"]  # the worst gain, not the difference of two worst clients


def test_who_is_better_off_is_counted() -> None:
    assert better_off(OUTCOMES) == "2 of 4 clients better off than alone, 1 the same, 1 worse off"
    assert better_off(OUTCOMES[2:3]) == "0 of 1 clients better off than alone, 0 the same, 1 worse off"


def shown(table: Table, width: int) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        show(console, table)
    return captured.get()


@pytest.mark.parametrize("width", [80, 30])
def test_numbers_and_clients_are_whole_on_a_narrow_console(width: int) -> None:
    own = [replace(one, model="my_package.networks:convolutional_and_wide", epsilon=3.14159) for one in OUTCOMES]
    own[0] = replace(own[0], client="hospital-of-the-holy-spirit.ward-3")
    wide, narrow = (shown(client_table(own, "local-public"), columns) for columns in (200, width))
    lost = {word for word in wide.split() if not word.startswith(("my_package", "─"))} - set(narrow.split())
    assert not lost
    assert "…" not in narrow
    starts = [line.find("my_p") for line in narrow.splitlines() if "my_p" in line]
    folded = "".join(line[starts[0] :].split(" ")[0] for line in narrow.splitlines()[5:])
    assert "my_package.networks:convolutional_and_wide" in folded


def test_a_table_is_as_narrow_as_its_cells() -> None:
    row = " client00  mlp    0 1         20     5  0.900  0.800  +0.100    0.700 \n"
    assert row in shown(client_table(OUTCOMES, "fedmd"), 80)


def test_names_of_blocks_are_whole_on_a_narrow_console() -> None:
    printed = shown(block_table(ModelSpec("vit", (3, 30, 30), 10), torch.float32), 80)
    assert "…" not in printed
    whole = shown(block_table(ModelSpec("vit", (3, 30, 30), 10), torch.float32), 500)
    assert "".join(printed.split()).count("weight") == whole.count("weight")


def test_without_learning_alone_nothing_is_compared() -> None:
    outcomes = [replace(one, alone_accuracy=None) for one in OUTCOMES]
    assert better_off(outcomes) == ""
    rows = printed(outcomes)
    assert rows["client"][-2:] == ["fedmd", "teacher"]
    assert rows["client00"][-2:] == ["0.900", "0.700"]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_study_says_that_it_checks_before_it_begins(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pfedhr.report.console.PATIENCE", 0.0)
    console = Console(width=80, color_system=None, force_terminal=terminal)
    with console.capture() as captured, CellsDisplay(console) as display:
        for done in range(4):
            display.checked(3, done)
        display.begin(5, 2)
    told = captured.get()
    assert ("checked before any begins" if terminal else "checked 0 of 3 runs; none begins before all are\n") in told
    assert terminal or len(told.splitlines()) == 1


def test_epsilon_is_told_where_it_was_spent() -> None:
    rows = printed([replace(one, epsilon=3.14159) for one in OUTCOMES])
    assert rows["client"][-1] == "epsilon"
    assert rows["client00"][-1] == "3.14"
