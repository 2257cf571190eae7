"""The commands that compare: `pfedhr compare`, `pfedhr reproduce`, `pfedhr report`."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from pfedhr.algorithm import Algorithm
from pfedhr.algorithms import ALGORITHMS
from pfedhr.arguments import UsageError, count, folder, numbers, take, words
from pfedhr.experiment import Experiment
from pfedhr.experiment_file import load_experiment, override
from pfedhr.report.comparison import ALONE, comparison_sheet, method_rows
from pfedhr.report.console import CellsDisplay
from pfedhr.report.study import about_study
from pfedhr.reproduction import SCALES, TARGETS, redraw, reproduce
from pfedhr.results import collect, read_results, write_results
from pfedhr.study import Setting, cells_of, run_cells

SEEDS = "0,1,2,3,4"
GAINS = ("method", "mean", "worst client", "better / worse off", "to local", "to pfedhr")
COSTS = ("method", "MB up", "MB down", "client s", "server s", "extra data")


def compare(arguments: list[str]) -> None:
    """Run several methods on one experiment under several seeds, and print their table."""
    told = " ".join(["pfedhr compare", *_private(arguments)])
    names, arguments = take(arguments, "--algorithms")
    seeds, arguments = take(arguments, "--seeds")
    out, arguments = take(arguments, "--out")
    workers, arguments = take(arguments, "--workers")
    if not arguments or arguments[0].startswith("-") or not names:
        raise UsageError(
            "pfedhr compare takes a preset or a file, and methods, as in: pfedhr compare two-classes --algorithms fedmd,pfedhr"
        )
    name, *settings = arguments
    experiment, methods = _methods(load_experiment(name), words("--algorithms", names), settings)
    path = folder(out, f"runs/compare-{experiment.name}")
    cells = cells_of([Setting(experiment.name, experiment, methods)], numbers("--seeds", seeds or SEEDS))
    _watched(lambda display: run_cells(cells, path / "cells", count("--workers", workers), display), path)
    results = collect(cells, path / "cells")
    write_results(results, path)
    redraw(path, {"title": f"Comparison: {experiment.name}", **about_study(told, results)})
    _show(path)


def _methods(experiment: Experiment, names: Sequence[str], settings: Sequence[str]) -> tuple[Experiment, dict[str, Algorithm]]:
    """Return the experiment, and the named methods beside learning alone, as the command line sets both.

    A method has its defaults, or what the experiment says of it, changed by --METHOD.FIELD VALUE.
    """
    for name in names:
        if name not in ALGORITHMS:
            near = difflib.get_close_matches(name, ALGORITHMS, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UsageError(f"--algorithms: unknown method {name!r}: {hint}known are {', '.join(ALGORITHMS)}")
    common: list[str] = []
    own: dict[str, list[str]] = {name: [] for name in dict.fromkeys([ALONE, *names])}
    target = common
    for word in settings:
        if word.startswith("--"):
            prefix, dot, rest = word[2:].partition(".")
            target = own[prefix] if prefix in own and dot else common
            word = f"--algorithm.{rest}" if target is not common else word
        target.append(word)
    experiment = override(experiment, common)
    return experiment, {name: override(experiment, ["--algorithm.name", name, *given]).algorithm for name, given in own.items()}


def reproduce_target(arguments: list[str]) -> None:
    """Run a table or figure of the paper, and write it beside the published numbers."""
    scale, arguments = take(arguments, "--scale")
    sets, arguments = take(arguments, "--datasets")
    directory, arguments = take(arguments, "--data.dir")
    seeds, arguments = take(arguments, "--seeds")
    out, arguments = take(arguments, "--out")
    workers, arguments = take(arguments, "--workers")
    if len(arguments) != 1 or arguments[0] not in TARGETS:
        given = f", not {' '.join(arguments)}" if arguments else ""
        raise UsageError(f"pfedhr reproduce takes one of {', '.join(TARGETS)}{given}")
    if scale not in (None, *SCALES):
        raise UsageError(f"--scale {scale}: choose one of {', '.join(SCALES)}")
    target, path = TARGETS[arguments[0]], folder(out, "runs/reproduce")
    chosen = words("--datasets", sets) if sets else list(target.sets)
    plan = (target, SCALES[scale or "small"], chosen, directory or "", numbers("--seeds", seeds or SEEDS), path)
    written: list[Path] = []
    _watched(lambda display: written.extend(reproduce(*plan, count("--workers", workers), display)), path)
    for place in written:
        _show(place)


def report(arguments: list[str]) -> None:
    """Write the tables and figures of a study again from its rows."""
    if not arguments or any(word.startswith("-") for word in arguments):
        raise UsageError("pfedhr report takes folders that `pfedhr compare` or `pfedhr reproduce` has written")
    for place in map(Path, arguments):
        redraw(place)
        _show(place)


def _watched(work: Callable[[CellsDisplay], None], path: Path) -> None:
    """Do the work under a display of its runs; Ctrl-C ends it, and says how to go on."""
    try:
        with CellsDisplay(Console(stderr=True)) as display:
            work(display)
    except KeyboardInterrupt:
        print(f"pfedhr: stopped; the same command goes on, with what is finished in {path}", file=sys.stderr)
        sys.exit(130)


def _show(place: Path) -> None:
    """Print what every setting in `place` gave and cost, and where the rest is."""
    results, console = read_results(place), Console()
    if not console.is_terminal:
        console = Console(width=120)  # where nobody reads along, nothing is gained by breaking lines
    for setting in results.settings:
        whole = comparison_sheet(method_rows(results.of(setting)), setting)
        for columns in (GAINS, COSTS):
            console.print(whole.only(*columns).console())
    print(f"written to {place}")


def _private(arguments: Sequence[str]) -> list[str]:
    """Return the words of the command without the folders of the one who gave it."""
    for option in ("--data.dir", "--out"):
        value, rest = take(list(arguments), option)
        arguments = arguments if value is None else [*rest, option, "DIR"]
    return list(arguments)
