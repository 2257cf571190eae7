"""Print the tables of docs/method.md from the rows of `benefit` in docs/results: python scripts/summarise_benefit.py

Those of `benefit-other-seeds-small` are of seeds that came after the settings were chosen, all but one rule (docs/method.md).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from scipy import stats

from pfedhr.report.comparison import MethodRow, differences, mean_and_spread, method_rows, points, told_seeds
from pfedhr.report.sheet import Sheet
from pfedhr.reproduction.beside import heading
from pfedhr.results import Results, read_results
from pfedhr.statistics import paired_interval

RESULTS = Path(__file__).parents[1] / "docs" / "results"
METHODS = (
    *("local", "local-public", "fedmd", "fedgh", "fedkemf", "fccl"),
    *("fedproto", "fedtgp", "pfedclub", "feddf", "paper", "pfedhr"),
)


Place = tuple[str, str]
"""A data set, and a setting in words."""


def places(name: str) -> dict[Place, Results]:
    """Return the rows of every setting that a folder of results has."""
    found: dict[Place, Results] = {}
    for folder in sorted(path for path in (RESULTS / name).iterdir() if path.is_dir()):
        results = read_results(folder)
        found |= {(folder.name, heading(setting)): results.of(setting) for setting in results.settings}
    return found


def whole_rows(results: Results) -> dict[str, MethodRow]:
    """Return the rows of methods that ran under all seeds of pfedhr, for means over other seeds cannot be compared."""
    rows = {row.method: row for row in method_rows(results)}
    return {method: row for method, row in rows.items() if set(row.seeds) >= set(rows["pfedhr"].seeds)}


def means(results: Results) -> list[str]:
    """Return every method's mean and spread over seeds, the highest in bold, nothing where it was not run.

    Where it ran under fewer seeds than pfedhr, these are told.
    """
    rows, whole = {row.method: row for row in method_rows(results)}, whole_rows(results)
    best = max(whole.values(), key=lambda row: row.mean)

    def cell(method: str) -> str:
        if method not in rows:
            return ""
        text = mean_and_spread(rows[method].mean, rows[method].spread)
        if method not in whole:
            return f"{text} (seed {told_seeds(rows[method].seeds)})"
        return f"**{text}**" if method == best.method else text

    return [cell(method) for method in METHODS]


def beside_others(results: Results) -> list[str]:
    """Return pfedhr's difference to learning alone, without and with the public labels, and to the best other federated method.

    Then what `to_alone` says, and what teachers know.
    """
    rows = whole_rows(results)
    others = sorted(rows.keys() - {"pfedhr", "own", "paper", "local", "local-public"})
    best = max(others, key=lambda method: rows[method].mean)
    return [
        beside(results, "local"),
        beside(results, "local-public"),
        f"{best} {beside(results, best)}",
        *to_alone(results),
        f"{100 * (rows['pfedhr'].teacher or 0):.1f}",
    ]


def beside(results: Results, other: str) -> str:
    """Return pfedhr's difference to another method with its interval, nothing where that was not run."""
    theirs = results.accuracies(other)
    return points(paired_interval(differences(results.accuracies("pfedhr"), theirs))) if theirs else ""


def to_alone(results: Results) -> list[str]:
    """Return how many clients pfedhr leaves more than a point below alone, and the same by places.

    A client is one of one seed: another seed splits other data. What the k-th clients of all seeds share is a place and the
    network that belongs to it: of places, the mean over seeds that is least, and how many are a point below, surely above or
    surely below.
    """
    gains = gains_of("pfedhr", results)
    clients = [gain for seed in gains for gain in seed]
    places = list(zip(*gains, strict=True))
    means = [statistics.fmean(place) for place in places]
    return [
        f"{sum(gain < -1 for gain in clients)} of {len(clients)}",
        f"{min(clients):+.1f}",
        f"{min(means):+.1f}",
        f"{sum(mean < -1 for mean in means)} of {len(means)}",
        f"{sum(map(surely_above, places))} / {sum(surely_above([-gain for gain in place]) for place in places)}",
    ]


def other_seeds(first: Results, more: Results) -> list[str]:
    """Return what the later seeds say, and then all together."""
    both = Results(first.cells + more.cells, first.clients + more.clients)
    rows = {row.method: row for row in method_rows(more)}
    means = [mean_and_spread(rows[method].mean, rows[method].spread) for method in ("local", "pfedhr")]
    return [*means, beside(more, "local"), beside(both, "local"), *to_alone(both)]


def gains_of(method: str, results: Results) -> list[list[float]]:
    """Return what clients gain by a method over learning alone, in points, by seed."""
    return [[100 * gain for gain in seed] for seed in differences(results.accuracies(method), results.accuracies("local"))]


def beside_chance(*forms: Sequence[Sequence[float]]) -> list[str]:
    """Return how many per cent of clients end more than a point above, a point below and five below, and the worst, by form.

    A form is what its clients gain, by seed.
    """
    clients = [[gain for seed in gains for gain in seed] for gains in forms]

    def shares(fits: Callable[[float], bool]) -> str:
        return " / ".join(f"{100 * statistics.fmean(map(fits, gains)):.0f}" for gains in clients)

    counts = [shares(lambda gain: gain > 1), shares(lambda gain: gain < -1), shares(lambda gain: gain < -5)]
    return [*counts, " / ".join(f"{min(gains):+.1f}" for gains in clients)]


def chance(found: Mapping[Place, Results], more: Mapping[Place, Results]) -> dict[Place, list[str]]:
    """Return what other random numbers alone do to the clients of each set and partition, and what `pfedhr` does."""
    table: dict[Place, list[str]] = {}
    for folder in sorted((RESULTS / "alone-again-small").iterdir()):
        data, _, partition = folder.name.rpartition("-")
        forms = [gains_of("alone-again", read_results(folder))]
        for public in ("labelled", "unlabelled"):
            place = (data, heading(f"{partition}/{public}/"))
            forms.append([seed for results in (found, more) for seed in gains_of("pfedhr", results[place])])
        table[data, heading(f"{partition}/labelled/").partition(",")[0]] = beside_chance(*forms)
    return table


def surely_above(gains: Sequence[float]) -> bool:
    """Return whether the 95 % t-interval of the mean lies above zero. Raises StatisticsError for a single gain."""
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    return statistics.fmean(gains) > float(stats.t.ppf(0.975, len(gains) - 1)) * error


def show(title: str, columns: Sequence[str], rows: Mapping[Place, Sequence[str]]) -> None:
    """Print a table of one row a place."""
    print(Sheet(title, ["data", "clients, public data", *columns], [[*place, *row] for place, row in rows.items()]).markdown())


if __name__ == "__main__":
    found = places("benefit-small")
    show("Mean accuracy over all clients (%)", METHODS, {place: means(results) for place, results in found.items()})
    alone = ("clients a point below", "worst", "worst place", "places a point below", "surely above / below")
    columns = ("to `local`", "to `local-public`", "to the best other", *alone, "teachers (%)")
    show("`pfedhr` and others", columns, {place: beside_others(results) for place, results in found.items()})
    others = METHODS[2:-1]
    each = {place: [beside(results, other) for other in others] for place, results in found.items()}
    show("`pfedhr` to every other method", [f"to `{other}`" for other in others], each)
    more = places("benefit-other-seeds-small")
    columns = ("`local`", "`pfedhr`", "to `local`", "with seeds 0-4: to `local`", *alone)
    show("Other seeds", columns, {place: other_seeds(found[place], results) for place, results in more.items()})
    columns = ("a point above (%)", "a point below (%)", "five below (%)", "worst client (points)")
    title = "Clients beside `local`, nine seeds: alone again / `pfedhr`, labelled / unlabelled"
    show(title, columns, chance(found, more))
