"""Print the tables of docs/method.md from the rows of `benefit` in docs/results: python scripts/summarise_benefit.py

Those of `benefit-other-seeds-small` are of seeds that came after the settings were chosen, all but one rule (docs/method.md).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
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
FORMS = ("own", "last-blocks", "paper")
"""Other forms of pFedHR."""
Place = tuple[str, str]
"""A data set, and a setting in words."""


def places(name: str) -> dict[Place, Results]:
    """Return the rows of every setting that a folder of results has."""
    found: dict[Place, Results] = {}
    for folder in sorted(path for path in (RESULTS / name).iterdir() if path.is_dir()):
        results = read_results(folder)
        found |= {(folder.name, heading(setting)): results.of(setting) for setting in results.settings}
    return found


def rows_of(results: Results) -> dict[str, MethodRow]:
    """Return the row of every method by its name."""
    return {row.method: row for row in method_rows(results)}


def whole(rows: Mapping[str, MethodRow]) -> dict[str, MethodRow]:
    """Return the rows of methods that ran under all seeds of pfedhr, for means over other seeds cannot be compared."""
    return {method: row for method, row in rows.items() if set(row.seeds) >= set(rows["pfedhr"].seeds)}


def means(results: Results) -> list[str]:
    """Return every method's mean and spread over seeds, the highest in bold, nothing where it was not run.

    Where it ran under fewer seeds than pfedhr, these are told.
    """
    rows = rows_of(results)
    comparable = whole(rows)
    best = max((method for method in METHODS if method in comparable), key=lambda method: comparable[method].mean)

    def cell(method: str) -> str:
        if method not in rows:
            return ""
        text = mean_and_spread(rows[method].mean, rows[method].spread)
        if method not in comparable:
            return f"{text} (seed {told_seeds(rows[method].seeds)})"
        return f"**{text}**" if method == best else text

    return [cell(method) for method in METHODS]


def beside_others(results: Results) -> list[str]:
    """Return pfedhr's difference to learning alone, without and with the public labels, and to the best other federated method.

    Then what `to_alone` says, and what teachers know.
    """
    rows = whole(rows_of(results))
    others = sorted(rows.keys() - {"pfedhr", *FORMS, "local", "local-public"})
    best = max(others, key=lambda method: rows[method].mean)
    return [
        beside(results, "local"),
        beside(results, "local-public"),
        f"{best} {beside(results, best)}",
        *to_alone(results),
        f"{100 * (rows['pfedhr'].teacher or 0):.1f}",
    ]


def beside(results: Results, other: str, form: str = "pfedhr") -> str:
    """Return a form's difference to another method with its interval, nothing where that was not run."""
    theirs = results.accuracies(other)
    return points(paired_interval(differences(results.accuracies(form), theirs))) if theirs else ""


def of_last_blocks(results: Results) -> list[str]:
    """Return what tuning the last two blocks alone gives, beside learning alone, with the public labels too, and all blocks."""
    row = rows_of(results)["last-blocks"]
    told = [beside(results, other, "last-blocks") for other in ("local", "local-public", "feddf", "pfedhr")]
    return [mean_and_spread(row.mean, row.spread), *told, f"{100 * (row.teacher or 0):.1f}"]


def to_alone(results: Results) -> list[str]:
    """Return how many clients pfedhr leaves more than a point below alone, and the same by places.

    A client is one of one seed: another seed splits other data. What the k-th clients of all seeds share is a place and the
    network that belongs to it: of places, the mean over seeds that is least, and how many are a point below, surely above or
    surely below.
    """
    gains = gains_of("pfedhr", results)
    clients = flat(gains)
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
    rows = rows_of(more)
    means = [mean_and_spread(rows[method].mean, rows[method].spread) for method in ("local", "pfedhr")]
    return [*means, beside(more, "local"), beside(both, "local"), *to_alone(both)]


def gains_of(method: str, results: Results) -> list[list[float]]:
    """Return what clients gain by a method over learning alone, in points, by seed."""
    return [[100 * gain for gain in seed] for seed in differences(results.accuracies(method), results.accuracies("local"))]


def flat(gains: Sequence[Sequence[float]]) -> list[float]:
    """Return what clients gain, seed by seed, as one list."""
    return [gain for seed in gains for gain in seed]


def counts(gains: Sequence[float]) -> list[int]:
    """Return how many gains are above five points, above one, within one of 0, below minus one and below minus five."""
    above, below = ([sum(sign * gain > least for gain in gains) for least in (1, 5)] for sign in (1, -1))
    return [above[1], above[0], len(gains) - above[0] - below[0], below[0], below[1]]


def beside_chance(*forms: Sequence[float]) -> list[str]:
    """Return how many per cent of clients end more than a point above, a point below and five below, and the worst, by form."""
    told = [counts(gains) for gains in forms]
    shares = [[f"{100 * of[at] / len(gains):.0f}" for of, gains in zip(told, forms, strict=True)] for at in (1, 3, 4)]
    return [" / ".join(one) for one in (*shares, [f"{min(gains):+.1f}" for gains in forms])]


def forms_of(found: Mapping[Place, Results], more: Mapping[Place, Results]) -> dict[Place, list[list[float]]]:
    """Return what clients of each set and partition gain by other random numbers, then by `pfedhr`, with labels or not."""
    forms: dict[Place, list[list[float]]] = {}
    for folder in sorted((RESULTS / "alone-again-small").iterdir()):
        data, _, partition = folder.name.rpartition("-")
        ours = [(data, heading(f"{partition}/{public}/")) for public in ("labelled", "unlabelled")]
        gains = [flat(gains_of("pfedhr", found[place]) + gains_of("pfedhr", more[place])) for place in ours]
        forms[data, ours[0][1].partition(",")[0]] = [flat(gains_of("alone-again", read_results(folder))), *gains]
    return forms


def totals(forms: Mapping[Place, Sequence[Sequence[float]]]) -> dict[Place, list[str]]:
    """Return how many clients of all sets gain and lose by other random numbers alone, and by `pfedhr`, and the worst."""
    gains: dict[str, list[float]] = {"alone again": [], "`pfedhr`": []}
    for (_, words), (again, *ours) in forms.items():
        gains["alone again"] += again
        gains["`pfedhr`"] += flat(ours)
        gains.setdefault(f"`pfedhr`, {words}", []).extend(flat(ours))
    return {("all", form): [*map(str, counts(one)), f"{min(one):+.1f}"] for form, one in gains.items()}


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
    cheap = {place: of_last_blocks(results) for place, results in found.items() if results.accuracies("last-blocks")}
    columns = ("`last-blocks`", "to `local`", "to `local-public`", "to `feddf`", "to `pfedhr`", "teachers (%)")
    show("The last two blocks tuned alone", columns, cheap)
    others = METHODS[2:-1]
    each = {place: [beside(results, other) for other in others] for place, results in found.items()}
    show("`pfedhr` to every other method", [f"to `{other}`" for other in others], each)
    more = places("benefit-other-seeds-small")
    columns = ("`local`", "`pfedhr`", "to `local`", "with seeds 0-4: to `local`", *alone)
    show("Other seeds", columns, {place: other_seeds(found[place], results) for place, results in more.items()})
    columns = ("a point above (%)", "a point below (%)", "five below (%)", "worst client (points)")
    title = "Clients beside `local`, nine seeds: alone again / `pfedhr`, labelled / unlabelled"
    forms = forms_of(found, more)
    show(title, columns, {place: beside_chance(*gains) for place, gains in forms.items()})
    columns = ("five above", "a point above", "within a point", "a point below", "five below", "worst client (points)")
    show("Clients beside `local`, nine seeds", columns, totals(forms))
