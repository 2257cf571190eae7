"""Print the tables of docs/method.md from the rows of `benefit` in docs/results: python scripts/summarise_benefit.py"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from scipy import stats

from pfedhr.report.comparison import MethodRow, differences, mean_and_spread, method_rows, points
from pfedhr.report.sheet import Sheet
from pfedhr.reproduction.beside import heading
from pfedhr.results import Results, read_results
from pfedhr.statistics import paired_interval

FOLDER = Path(__file__).parents[1] / "docs" / "results" / "benefit-small"
METHODS = (
    *("local", "local-public", "fedmd", "fedgh", "fedkemf", "fccl"),
    *("fedproto", "fedtgp", "pfedclub", "feddf", "paper", "pfedhr"),
)


def places() -> list[tuple[str, str, Results]]:
    """Return every setting there is: its data set, its words, and its rows."""
    found: list[tuple[str, str, Results]] = []
    for folder in sorted(path for path in FOLDER.iterdir() if path.is_dir()):
        results = read_results(folder)
        found += [(folder.name, heading(setting), results.of(setting)) for setting in results.settings]
    return found


def means(results: Results) -> list[str]:
    """Return every method's mean and spread over seeds, the highest in bold, nothing where it was not run."""
    rows = {row.method: row for row in method_rows(results)}
    best = max(rows.values(), key=lambda row: row.mean)

    def cell(row: MethodRow | None) -> str:
        text = mean_and_spread(row.mean, row.spread) if row else ""
        return f"**{text}**" if row is best else text

    return [cell(rows.get(method)) for method in METHODS]


def beside_others(results: Results) -> list[str]:
    """Return pfedhr's difference to learning alone, without and with the public labels, and to the best other federated method.

    Then the client that it serves worst, how many it leaves a point below or surely above or below, by means over seeds.
    """
    rows = {row.method: row for row in method_rows(results)}
    own, alone = results.accuracies("pfedhr"), results.accuracies("local")

    def beside(other: str) -> str:
        return points(paired_interval(differences(own, results.accuracies(other)))) if other in rows else ""

    best = max(
        sorted(rows.keys() - {"pfedhr", "paper", "local", "local-public"}), key=lambda method: rows[method].mean, default=""
    )
    by_client = list(zip(*differences(own, alone), strict=True))
    clients = [100 * statistics.fmean(gains) for gains in by_client]
    return [
        beside("local"),
        beside("local-public"),
        f"{best} {beside(best)}".strip(),
        f"{min(clients):+.1f}",
        f"{sum(value < -1 for value in clients)} of {len(clients)}",
        f"{sum(map(surely_above, by_client))} / {sum(surely_above([-gain for gain in gains]) for gains in by_client)}",
        f"{100 * (rows['pfedhr'].teacher or 0):.1f}",
    ]


def surely_above(gains: Sequence[float]) -> bool:
    """Return whether the 95 % t-interval of the mean lies above zero. Raises StatisticsError for a single gain."""
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    return statistics.fmean(gains) > float(stats.t.ppf(0.975, len(gains) - 1)) * error


if __name__ == "__main__":
    found = places()
    accuracies = [[data, setting, *means(results)] for data, setting, results in found]
    print(Sheet("Mean accuracy over all clients (%)", ["data", "clients, public data", *METHODS], accuracies).markdown())
    compared = [
        "to `local`",
        "to `local-public`",
        "to the best other",
        "worst client",
        "a point below",
        "surely above / below",
        "teachers (%)",
    ]
    rows = [[data, setting, *beside_others(results)] for data, setting, results in found]
    print(Sheet("`pfedhr` and others", ["data", "clients, public data", *compared], rows).markdown())
