"""What is printed of a run: who is better off than alone, and by how much."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from pfedhr.report.console import better_off, client_table
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


def test_without_learning_alone_nothing_is_compared() -> None:
    outcomes = [replace(one, alone_accuracy=None) for one in OUTCOMES]
    assert better_off(outcomes) == ""
    rows = printed(outcomes)
    assert rows["client"][-2:] == ["fedmd", "teacher"]
    assert rows["client00"][-2:] == ["0.900", "0.700"]


def test_epsilon_is_told_where_it_was_spent() -> None:
    rows = printed([replace(one, epsilon=3.14159) for one in OUTCOMES])
    assert rows["client"][-1] == "epsilon"
    assert rows["client00"][-1] == "3.14"
