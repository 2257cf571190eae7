"""The table of a comparison: a row a method, what it gave and what it cost, beside learning alone and pFedHR."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from pfedhr.algorithms.stopwatch import STAGES
from pfedhr.report.sheet import Sheet
from pfedhr.results import CellRow, Results, ResultsError
from pfedhr.statistics import Interval, mean_or_none, paired_interval

ALONE = "local"
REFERENCE = "pfedhr"
MEGABYTE = 1e6


@dataclass(frozen=True)
class MethodRow:
    """One method in one setting: means over seeds.

    `spread`: standard deviation over seeds of the mean over clients, None for one seed; `deviation`: that over clients, mean
    over seeds. `better` and `worse` count pairs of client and seed, of `pairs`, against learning alone. Megabytes are those of
    a client in a round, seconds those of all clients, or of the server, in a round. `teacher`: accuracy of the teachers, or of
    the shared network, that clients were given last, on their test examples.
    """

    method: str
    seeds: tuple[int, ...]
    mean: float
    spread: float | None
    best: float
    worst: float
    worst_tenth: float
    deviation: float
    better: int | None
    worse: int | None
    pairs: int | None
    to_alone: Interval | None
    to_reference: Interval | None
    megabytes_up: float
    megabytes_down: float
    client_seconds: float
    server_seconds: float
    public_use: str
    teacher: float | None
    teacher_ratio: float | None


def method_rows(results: Results) -> list[MethodRow]:
    """Return the rows of a single setting, in the order of its methods. Raises what `differences` raises."""
    alone = results.accuracies(ALONE)
    reference = results.accuracies(REFERENCE)
    return [_method_row(method, results, alone, reference) for method in results.methods]


def told_seeds(seeds: tuple[int, ...]) -> str:
    """Return seeds as a table shows them: 0-4 or 0,2,3."""
    if len(seeds) > 2 and seeds == tuple(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ",".join(map(str, seeds))


Accuracies = Mapping[int, Mapping[str, float]]
"""By seed and client."""


def _method_row(method: str, results: Results, alone: Accuracies, reference: Accuracies) -> MethodRow:
    cells = [row for row in results.cells if row.method == method]
    own = results.accuracies(method)
    gains = differences(own, alone) if method != ALONE else []
    beside = differences(own, reference) if method != REFERENCE else []

    def mean(value: Callable[[CellRow], float]) -> float:
        return statistics.fmean(map(value, cells))

    return MethodRow(
        method=method,
        seeds=tuple(sorted(row.seed for row in cells)),
        mean=mean(lambda row: row.mean),
        spread=statistics.stdev(row.mean for row in cells) if len(cells) > 1 else None,
        best=mean(lambda row: row.best),
        worst=mean(lambda row: row.worst),
        worst_tenth=mean(lambda row: row.worst_tenth),
        deviation=mean(lambda row: row.deviation),
        better=sum(gain > 0 for row in gains for gain in row) if gains else None,
        worse=sum(gain < 0 for row in gains for gain in row) if gains else None,
        pairs=sum(map(len, gains)) if gains else None,
        to_alone=paired_interval(gains) if gains else None,
        to_reference=paired_interval(beside) if beside else None,
        megabytes_up=mean(lambda row: row.bytes_up / MEGABYTE / row.rounds / row.active),
        megabytes_down=mean(lambda row: row.bytes_down / MEGABYTE / row.rounds / row.active),
        client_seconds=mean(lambda row: row.client_seconds / row.rounds),
        server_seconds=mean(lambda row: row.server_seconds / row.rounds),
        public_use=cells[0].public_use,
        teacher=mean_or_none(row.teacher_accuracy for row in results.clients if row.method == method),
        teacher_ratio=mean_or_none(row.teacher_ratio for row in cells),
    )


def differences(own: Accuracies, other: Accuracies) -> list[list[float]]:
    """Return own minus other (seeds, clients), paired by seed and client, for the seeds that both have.

    Raises ResultsError for seeds of which they tell other clients.
    """
    for seed in own.keys() & other.keys():
        if unpaired := own[seed].keys() ^ other[seed].keys():
            raise ResultsError(
                f"{min(unpaired)} is among the clients of seed {seed} under one method and not under another, so that these "
                "cannot be compared: leave one of them out, or make its runs again"
            )
    return [[own[seed][client] - other[seed][client] for client in sorted(own[seed])] for seed in sorted(own) if seed in other]


def comparison_records(rows: Sequence[MethodRow]) -> list[dict[str, object]]:
    """Return the rows for a CSV file, numbers in full; an interval has three columns."""
    records: list[dict[str, object]] = []
    for row in rows:
        record: dict[str, object] = {}
        for item in fields(row):
            value = getattr(row, item.name)
            if item.name == "seeds":
                record["seeds"] = told_seeds(row.seeds)
            elif item.name.startswith("to_"):
                record |= {f"{item.name}_{end}": value and getattr(value, end) for end in ("mean", "low", "high")}
            else:
                record[item.name] = value
        records.append(record)
    return records


HEADINGS = (
    *("method", "seeds", "mean", "best round", "worst client", "worst tenth", "std", "teacher", "better / worse off"),
    *("to local", "to pfedhr", "MB up", "MB down", "client s", "server s", "extra data"),
)


def comparison_sheet(rows: Sequence[MethodRow], title: str) -> Sheet:
    """Return the rows as a table of text: accuracies in percent, differences in points with their 95 % intervals."""
    return Sheet(title, HEADINGS, [list(_cells(row)) for row in rows])


def _cells(row: MethodRow) -> Iterator[str]:
    yield row.method
    yield told_seeds(row.seeds)
    yield mean_and_spread(row.mean, row.spread)
    yield from (f"{100 * value:.2f}" for value in (row.best, row.worst, row.worst_tenth, row.deviation))
    yield "" if row.teacher is None else f"{100 * row.teacher:.2f}"
    yield "" if row.pairs is None else f"{row.better} / {row.worse} of {row.pairs}"
    yield from map(points, (row.to_alone, row.to_reference))
    yield from (f"{value:.3g}" for value in (row.megabytes_up, row.megabytes_down))
    yield from (f"{value:.2f}" for value in (row.client_seconds, row.server_seconds))
    yield row.public_use


def mean_and_spread(mean: float, spread: float | None) -> str:
    """Return an accuracy in percent, with its standard deviation over seeds unless there is only one."""
    return f"{100 * mean:.2f}" if spread is None else f"{100 * mean:.2f} ± {100 * spread:.2f}"


def points(interval: Interval | None) -> str:
    """Return a difference in percentage points with its interval; nothing for None."""
    if interval is None:
        return ""
    mean, low, high = (100 * value for value in (interval.mean, interval.low, interval.high))
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def structure_sheet(results: Results, setting: str) -> Sheet:
    """Return the mean accuracy of every method over the clients of each structure, in percent."""
    models = sorted({row.model for row in results.clients})

    def mean(method: str, model: str) -> str:
        value = mean_or_none(row.accuracy for row in results.clients if (row.method, row.model) == (method, model))
        return "" if value is None else f"{100 * value:.2f}"

    seeds = _unlike_seeds(results)
    rows = [[method, seeds[method], *(mean(method, model) for model in models)] for method in results.methods]
    return Sheet(f"{setting}: mean accuracy by structure", ("method", "seeds", *models), rows).filled()


def _unlike_seeds(results: Results) -> dict[str, str]:
    """Return the seeds of every method as a table shows them; nothing where all have the same."""
    seeds = {method: tuple(sorted(row.seed for row in results.cells if row.method == method)) for method in results.methods}
    alike = len(set(seeds.values())) == 1
    return {method: "" if alike else told_seeds(own) for method, own in seeds.items()}


def server_sheet(results: Results, setting: str) -> Sheet:
    """Return where the server's seconds of a round go, for methods whose server has stages, and how large teachers are.

    Columns of which no method has anything are left out, and in both tables the seeds where all methods have the same.
    """
    rows: list[list[str]] = []
    seeds_of = _unlike_seeds(results)
    for method in results.methods:
        cells = [row for row in results.cells if row.method == method]
        seconds = [statistics.fmean(getattr(row, f"{stage}_seconds") / row.rounds for row in cells) for stage in STAGES]
        if any(seconds):
            count, ratio = (mean_or_none(getattr(row, name) for row in cells) for name in ("candidates", "teacher_ratio"))
            more = ("" if count is None else f"{count:.1f}", "" if ratio is None else f"{ratio:+.2f}")
            rows.append([method, seeds_of[method], *(f"{value:.3f}" if value else "" for value in seconds), *more])
    title = f"{setting}: the server's seconds a round by stage"
    return Sheet(title, ("method", "seeds", *STAGES, "candidates", "teacher size - 1"), rows).filled()
