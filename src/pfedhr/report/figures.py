"""Figures of studies, by matplotlib, which is imported only here: pip install 'pfedhr[report]'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfedhr.errors import PfedhrError
from pfedhr.results import Results
from pfedhr.statistics import Interval, paired_interval

COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c")


class FigureError(PfedhrError):
    """A figure that cannot be drawn; the message says what is missing."""


def draw_settings(results: Results, axis: str, title: str, published: Mapping[tuple[str, str], float], path: Path) -> None:
    """Draw a panel for each partition and kind of public data: a group of bars for each value of `axis`, a bar a method.

    A bar is the mean accuracy with its 95 % bootstrap interval; an open circle is what is `published`, in percent by setting
    and method.
    """
    names = [setting.split("/") for setting in results.settings]
    panels = list(dict.fromkeys((partition, public) for partition, public, _ in names))
    values = list(dict.fromkeys(value for *_, value in names))
    figure, grid = _subplots(1, len(panels), 3.2 * len(panels), 3.2)
    colours = dict(zip(results.methods, COLOURS, strict=False))
    for axes, (partition, public) in zip(grid, panels, strict=True):
        for place, value in enumerate(values):
            setting = f"{partition}/{public}/{value}"
            held = results.of(setting)
            for number, method in enumerate(held.methods):
                mean, low, high = _percent(paired_interval([list(row.values()) for row in held.accuracies(method).values()]))
                at = place + (number - (len(held.methods) - 1) / 2) * 0.8 / len(held.methods)
                axes.bar(at, mean, 0.8 / len(held.methods), color=colours[method], label=method if place == 0 else None)
                axes.errorbar(at, mean, [[mean - low], [high - mean]], color="black", capsize=2, linewidth=0.8)
                if (setting, method) in published:
                    axes.plot(at, published[setting, method], "o", color="black", fillstyle="none")
        axes.set(
            title=f"{partition}, {public}", xlabel=axis, ylabel="accuracy (%)", xticks=range(len(values)), xticklabels=values
        )
        lows = [100 * row.mean for row in results.cells]
        axes.set_ylim(max(0, min(lows) - 10), 100)
        axes.legend(fontsize=7)
    figure.suptitle(title)
    _save(figure, path)


def _percent(interval: Interval) -> tuple[float, float, float]:
    return 100 * interval.mean, 100 * interval.low, 100 * interval.high


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
    colours = dict(zip(models, COLOURS, strict=False))
    longest = max(map(len, teachers.values()))
    figure, grid = _subplots(len(teachers), 1, 1.7 * longest + 1, 1.4 * len(teachers))
    for axes, (number, blocks) in zip(grid, teachers.items(), strict=True):
        for place, block in enumerate(blocks):
            axes.text(
                place,
                0,
                f"{block.kind} {block.index}\n{block.model}\n{block.owner}",
                ha="center",
                va="center",
                fontsize=8,
                bbox={"boxstyle": "round", "facecolor": colours[block.model], "alpha": 0.5},
            )
            if place:
                axes.annotate("", (place - 0.33, 0), (place - 0.67, 0), arrowprops={"arrowstyle": "->"})
        axes.set(xlim=(-0.6, longest - 0.4), ylim=(-1, 1), title=f"round {number}")
        axes.axis("off")
    figure.suptitle(f"{title}: {client}")
    _save(figure, path)


def _subplots(rows: int, columns: int, width: float, height: float) -> tuple[Any, Sequence[Any]]:
    """Return a figure and its axes in a flat list. Raises FigureError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FigureError("figures need matplotlib: pip install 'pfedhr[report]'") from error
    figure = Figure((width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _save(figure: Any, path: Path) -> None:
    # Without a date and with names by content, so that equal figures are equal files.
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "pfedhr", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})
