"""The commands that compare: `pfedhr compare`, `pfedhr reproduce`, `pfedhr report`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from pfedhr.algorithm import Algorithm
from pfedhr.algorithms import ALGORITHMS
from pfedhr.algorithms.local import Local
from pfedhr.arguments import UsageError, count, folder, numbers, take, words
from pfedhr.disk import named_path, write
from pfedhr.errors import PfedhrError
from pfedhr.experiment import Experiment
from pfedhr.experiment_file import dump, load_experiment, override, parse
from pfedhr.imports import NotFoundError
from pfedhr.methods import find_method
from pfedhr.report.comparison import ALONE, comparison_sheet, method_rows
from pfedhr.report.console import CellsDisplay, table_console
from pfedhr.report.study import check_kept, read_about, write_rows
from pfedhr.reproduction import SCALES, TARGETS, beside_sheet, redraw, reproduce
from pfedhr.results import data_of, read_results, told_runs
from pfedhr.study import Setting, StudyError, cells_of, run_cells, without_place

SEEDS = "0,1,2,3,4"
GAINS = ("mean", "worst client", "better / worse off", "to local", "to pfedhr")
COSTS = ("MB up", "MB down", "client s", "server s", "extra data")
ELSEWHERE = {"--seed": "--seeds", "--name": "--out", "--compare_local": "nothing, for local is always there"}
"""Fields of an experiment that a comparison sets by itself, and what to give instead."""

BASE = "setting.toml"
"""Holds what a comparison is of, methods and seeds apart."""

Result = TypeVar("Result")


def compare(arguments: list[str]) -> None:
    """Run several methods on one experiment under several seeds, and print their table."""
    given = arguments
    names, arguments = take(arguments, "--algorithms")
    seeds, arguments = take(arguments, "--seeds")
    out, arguments = take(arguments, "--out")
    workers, arguments = take(arguments, "--workers")
    if not arguments or arguments[0].startswith("-") or not names:
        raise UsageError(
            "pfedhr compare takes a preset or a file, and methods, as in: pfedhr compare two-classes --algorithms fedmd,pfedhr"
        )
    name, *settings = arguments
    command = shlex.join(["pfedhr", "compare", *_private(given, name)])
    experiment, methods = _methods(load_experiment(name), words("--algorithms", names), settings)
    path = folder(out, f"runs/compare-{experiment.name}")
    base = shared_by_all(experiment, path)
    cells = cells_of([Setting(experiment.name, experiment, methods)], numbers("--seeds", seeds or SEEDS))
    at_once, store = count("--workers", workers), path / "cells"
    told = told_runs([path] if (path / "cells.csv").exists() else [])
    check_kept(cells, store, path, {path: told})
    failed = _watched(lambda display: run_cells(cells, store, at_once, display, data_of(told)), path)
    missing = write_rows(cells, store, path, told)
    if missing is not None:
        write(path / BASE, base.encode())
        redraw(path, {"title": f"Comparison: {experiment.name}", "command": command, **missing})
        _show(path)
    _tell(failed)


def _methods(experiment: Experiment, names: Sequence[str], settings: Sequence[str]) -> tuple[Experiment, dict[str, Algorithm]]:
    """Return the experiment, and the named methods beside learning alone, as the command line sets both.

    A method has its defaults, or what the experiment says of it, changed by --METHOD.FIELD VALUE.
    """
    named = {ALONE: ALONE} | _by_label(names)
    common: list[str] = []
    own: dict[str, list[str]] = {label: [] for label in named}
    target = common
    for word in settings:
        if word.startswith("--"):
            prefix, dot, rest = word[2:].partition(".")
            target = own[prefix] if prefix in own and dot else common
            field = word.partition("=")[0].replace("-", "_").replace("__", "--", 1)
            if dot and prefix in ALGORITHMS and prefix not in own:
                raise UsageError(f"{word}: {prefix} is not in --algorithms, which has {', '.join(own)}")
            if rest.partition("=")[0] == "name" and prefix in {"algorithm", *own}:
                raise UsageError(f"{word}: methods are named by --algorithms, as in --algorithms fedmd,pfedhr")
            if prefix == "algorithm":
                raise UsageError(f"{word}: say which method it is for, as in --{list(own)[-1]}.{rest}")
            if field in ELSEWHERE:
                raise UsageError(f"{word}: a comparison sets it by itself; give {ELSEWHERE[field]} instead")
            word = f"--algorithm.{rest}" if target is not common else word
        target.append(word)
    experiment = override(experiment, common)
    return experiment, {label: _method(experiment, label, named[label], given) for label, given in own.items()}


def _by_label(names: Sequence[str]) -> dict[str, str]:
    """Return the names of methods by what tables call them. Raises UsageError for unknown ones, and for two of one label."""
    named: dict[str, str] = {}
    for name in names:
        try:
            label = find_method(name).name
        except NotFoundError as error:
            raise UsageError(f"--algorithms: unknown method {name!r}: {error}") from error
        if label in named:
            raise UsageError(f"--algorithms: {named[label]} and {name} are both called {label!r}: let their names differ")
        named[label] = name
    return named


def _method(experiment: Experiment, label: str, name: str, given: Sequence[str]) -> Algorithm:
    """Return the named method with the fields that are given. Raises UsageError, which calls fields as the user did."""
    try:
        return override(experiment, ["--algorithm.name", name, *given]).algorithm
    except PfedhrError as error:
        raise UsageError(str(error).replace("algorithm.", f"{label}.")) from error


def shared_by_all(experiment: Experiment, path: Path) -> str:
    """Return the text of what all methods share.

    Raises UsageError if the comparison in `path` is of another experiment: its tables would be lost.
    """
    text, file = _shared(experiment), path / BASE
    if file.exists() and _shared(parse(file.read_text(encoding="utf-8"), str(file))) != text:
        raise UsageError(f"--out {path}: the comparison there is of another experiment ({file}); name another folder")
    return text


def _shared(experiment: Experiment) -> str:
    return dump(replace(without_place(experiment), seed=0, workers=1, compare_local=False, algorithm=Local()))


def reproduce_target(arguments: list[str]) -> None:
    """Run a table or figure of the paper, and write it beside the published numbers."""
    scale, arguments = take(arguments, "--scale")
    sets, arguments = take(arguments, "--datasets")
    directory, arguments = take(arguments, "--data.dir")
    seeds, arguments = take(arguments, "--seeds")
    out, arguments = take(arguments, "--out")
    workers, arguments = take(arguments, "--workers")
    names, arguments = take(arguments, "--methods")
    if len(arguments) != 1 or arguments[0] not in TARGETS:
        given = f", not {' '.join(arguments)}" if arguments else ""
        raise UsageError(f"pfedhr reproduce takes one of {', '.join(TARGETS)}{given}")
    if scale not in (None, *SCALES):
        raise UsageError(f"--scale {scale}: choose one of {', '.join(SCALES)}")
    target, path = TARGETS[arguments[0]], folder(out, "runs/reproduce")
    chosen = words("--datasets", sets) if sets else list(target.sets)
    under, at_once = numbers("--seeds", seeds or SEEDS), count("--workers", workers)
    methods = words("--methods", names) if names else []
    written, failed = _watched(
        lambda display: reproduce(
            target, SCALES[scale or "small"], chosen, directory or "", under, path, at_once, display, methods
        ),
        path,
    )
    for place in written:
        _show(place)
    _tell(failed)


def report(arguments: list[str]) -> None:
    """Write the tables and figures of a study again from its rows."""
    if not arguments or any(word.startswith("-") for word in arguments):
        raise UsageError("pfedhr report takes folders that `pfedhr compare` or `pfedhr reproduce` has written")
    for place in map(named_path, arguments):
        redraw(place)
        _show(place)


def _watched(work: Callable[[CellsDisplay], Result], path: Path) -> Result:
    """Do the work under a display of its runs; Ctrl-C ends it, and says how to go on."""
    try:
        with CellsDisplay(Console(stderr=True)) as display:
            return work(display)
    except KeyboardInterrupt:
        print(f"pfedhr: stopped; the same command goes on, with what is finished in {path}", file=sys.stderr)
        sys.exit(130)


def _show(place: Path) -> None:
    """Print what every setting in `place` gave and cost, and where the rest is."""
    results, console = read_results(place), table_console()
    about = read_about(place)
    if "target" in about:
        console.print(beside_sheet(TARGETS[about["target"]], about["scale"], results, about["data"]).console())
    for setting in results.settings:
        held = results.of(setting)
        rows = method_rows(held)
        seeds = ["seeds"] if len({row.seeds for row in rows}) > 1 else []  # means over unlike seeds are not alike
        for columns, what in ((GAINS, "accuracy in %, differences in points [95 %]"), (COSTS, "a client and round; a round")):
            sheet = comparison_sheet(rows, f"{setting}: {what}").only("method", *seeds, *columns)
            console.print(sheet.filled().console())
    count_of_seeds = len({row.seed for row in results.cells})
    print(f"[95 %]: with few seeds ({count_of_seeds} here) it is too narrow where seeds differ as much as clients do")
    print(f"written to {place}")


def _tell(failed: Mapping[str, str]) -> None:
    """Raise StudyError if runs failed."""
    if failed:
        reasons = "; ".join(f"{folder}: {error}" for folder, error in failed.items())
        raise StudyError(
            f"runs that failed: {len(failed)}; tables are of the others; change the settings, or leave the method out, and the "
            f"same command goes on. {reasons}"
        )


def _private(arguments: Sequence[str], name: str) -> list[str]:
    """Return the words of the command without the folders of the one who gave it; `name`: that of the experiment."""
    kept = list(arguments)
    kept[kept.index(name)] = Path(name).name
    for option in ("--data.dir", "--out"):
        value, rest = take(kept, option)
        kept = kept if value is None else [*rest, option, "DIR"]
    return kept
