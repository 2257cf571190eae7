"""Figures of targets, by matplotlib, which is imported only here: pip install 'pfedhr[report]'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfedhr.errors import PfedhrError
from pfedhr.reproduction.published import published_beside
from pfedhr.reproduction.targets import Conditions, Target
from pfedhr.results import Results
from pfedhr.statistics import paired_interval

COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c")


class FigureError(PfedhrError):
    """A figure that cannot be drawn; the message says what is missing."""


def need_matplotlib() -> None:
    """Raise FigureError unless figures can be drawn."""
    try:
        import matplotlib.figure  # noqa: F401 # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise FigureError("figures need matplotlib: pip install 'pfedhr[report]'") from error


def draw_settings(target: Target, results: Results, data: str, path: Path) -> None:
    """Draw the target's figure: a panel for each partition and kind of public data, its methods over the axis.

    A point is a mean accuracy with its 95 % bootstrap interval, where the method was run; an open circle is what is published.
    """
    settings = {Conditions.parse(setting): setting for setting in results.settings}
    panels = list(dict.fromkeys((at.partition, at.public) for at in settings))
    figure, grid = _subplots(1, len(panels), 3.4 * len(panels), 3.4)
    for axes, (partition, public) in zip(grid, panels, strict=True):
        here = {at.value: setting for at, setting in settings.items() if (at.partition, at.public) == (partition, public)}
        held = [results.of(setting) for setting in here.values()]
        methods = list(dict.fromkeys(method for one in held for method in one.methods))
        for number, method in enumerate(methods):
            # Side by side within a value, so that intervals do not hide each other.
            places = [place + 0.12 * (number - (len(methods) - 1) / 2) for place in range(len(here))]
            run = {place: one for place, one in zip(places, held, strict=True) if method in one.methods}
            values = [_percent(one, method) for one in run.values()]
            _draw_method(axes, list(run), values, method, COLOURS[results.methods.index(method) % len(COLOURS)])
            there = [published_beside(target.name, setting, method, data) for setting in here.values()]
            circles = [(place, one.percent) for place, one in zip(places, there, strict=True) if one]
            if circles:
                label = "published (other splits)"
                axes.plot(*zip(*circles, strict=True), "o", color="black", fillstyle="none", label=label)
        axes.set(title=f"{partition}, {public}", xlabel=target.axis, ylabel="accuracy (%)")
        axes.set_xticks(range(len(here)), list(here))
        axes.legend(fontsize=7)
    figure.suptitle(f"{target.name}: {target.title}, {data}")
    _save(figure, path)


def _percent(results: Results, method: str) -> tuple[float, float, float]:
    """Return the mean accuracy over seeds and clients, and the ends of its interval."""
    interval = paired_interval([list(clients.values()) for clients in results.accuracies(method).values()])
    return 100 * interval.mean, 100 * interval.low, 100 * interval.high


def _draw_method(
    axes: Any, places: Sequence[float], values: Sequence[tuple[float, float, float]], name: str, colour: str
) -> None:
    means = [mean for mean, _, _ in values]
    spans = [[mean - low for mean, low, _ in values], [high - mean for mean, _, high in values]]
    axes.errorbar(places, means, spans, fmt="o-", color=colour, markersize=4, capsize=2, label=name)


@dataclass(frozen=True)
class DrawnBlock:
    """A block of a teacher: whose it is, of which network, where it stands there, and its kind."""

    owner: str
    model: str
    index: int
    kind: str


def draw_teachers(teachers: Mapping[int, Sequence[DrawnBlock]], client: str, title: str, path: Path) -> None:
    """Draw the teachers that `client` was given, by round: a row of blocks each, coloured by the network that they are of."""
    models = sorted({block.model for blocks in teachers.values() for block in blocks})
    colours = {model: COLOURS[number % len(COLOURS)] for number, model in enumerate(models)}
    longest = max(map(len, teachers.values()))
    figure, grid = _subplots(len(teachers), 1, 1.7 * longest + 1, 1.4 * len(teachers))
    for axes, (number, blocks) in zip(grid, teachers.items(), strict=True):
        for place, block in enumerate(blocks):
            text = f"{block.kind} {block.index}\n{block.model}\n{block.owner}"
            box = {"boxstyle": "round", "facecolor": colours[block.model], "alpha": 0.5}
            axes.text(place, 0, text, ha="center", va="center", fontsize=8, bbox=box)
            if place:
                axes.annotate("", (place - 0.33, 0), (place - 0.67, 0), arrowprops={"arrowstyle": "->"})
        axes.set(xlim=(-0.6, longest - 0.4), ylim=(-1, 1), title=f"round {number}")
        axes.axis("off")
    figure.suptitle(f"{title}: {client}")
    _save(figure, path)


def _subplots(rows: int, columns: int, width: float, height: float) -> tuple[Any, Sequence[Any]]:
    """Return a figure and its axes in a flat list. Raises FigureError without matplotlib."""
    need_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _save(figure: Any, path: Path) -> None:
    # Without a date and with names by content, so that equal figures are equal files.
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "pfedhr", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})
