"""The command `pfedhr`. What a subcommand needs is imported when it is called: `pfedhr --help` must not wait for torch."""

from __future__ import annotations

import errno
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pfedhr.arguments import UsageError, check_writable, count, free_folder, input_shape, take
from pfedhr.disk import named_path
from pfedhr.errors import PfedhrError

if TYPE_CHECKING:
    from pfedhr.experiment import Experiment

USAGE = """\
usage: pfedhr COMMAND ...

Personalised federated learning among clients whose neural networks differ.

  pfedhr run PRESET-or-FILE.toml [--out DIR] [--engine in-process|flower] [--FIELD VALUE ...]
                          run an experiment; `pfedhr run demo --help` lists every field,
                          `pfedhr run --help` the names of methods and networks;
                          --engine flower: on Flower's simulation, with the same numbers
  pfedhr run --resume DIR [--workers N | --engine flower]
                          go on with a run that was stopped, to the same end
  pfedhr compare PRESET-or-FILE.toml --algorithms a,b,c [--seeds 0,1,2,3,4] [--out DIR]
                 [--workers N] [--FIELD VALUE ...] [--METHOD.FIELD VALUE ...]
                          run methods side by side, paired by seed, and print their table;
                          the same command again runs what is not finished
  pfedhr reproduce TARGET --data.dir DIR [--scale small|short|paper] [--datasets a,b]
                 [--methods a,b] [--seeds 0,1,2,3,4] [--out DIR] [--workers N]
                          a table or figure of the paper: table2, table3, table4, figure1,
                          figure3, figure4, figure5, figure6, figure7, benefit,
                          exchange, ablation
  pfedhr report DIR ...   write a study's tables and figures again from its CSV files
  pfedhr flower new DIR   write a Flower app for `flwr run`: a client's own network and data go
                          into its one Python file
  pfedhr inspect MODEL [--shape 3,32,32] [--classes 10] [--tokens]
                          print a network's blocks; --tokens: its inputs are the
                          numbers of words, as in: inspect lstm --shape 12 --tokens
  pfedhr presets          list the presets
  pfedhr --version        print the version, and a digest of the code

MODEL is a name of the zoo or your own as package.module:factory."""


FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk that has no room left."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit with 0, or with 2 and one paragraph on stderr where the user can mend the error."""
    command, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        try:
            _obey(command, rest)
        finally:
            sys.stdout.flush()  # when the interpreter does it, nobody can answer its error
        return
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # as of a program that the signal has ended
    except PfedhrError as error:
        reason = str(error)
    except OSError as error:
        reason = (f"{error.filename}: " if error.filename else "") + (error.strerror or str(error))
        reason += ": make room, then give the same command again" if error.errno in FULL else ""
    print(f"pfedhr: {reason}", file=sys.stderr)
    sys.exit(2)


def _obey(command: str, rest: list[str]) -> None:
    if command == "--version":
        from pfedhr.version import code

        print(code())
        return
    asks = {"-h", "--help"}
    if command in asks or (command in COMMANDS and command != "run" and asks & set(rest)):  # of a run, it lists all fields
        print(USAGE)
        return
    if command not in COMMANDS:
        raise UsageError(f"unknown command {command!r}: known are {', '.join(COMMANDS)}; see pfedhr --help")
    sys.path.insert(0, "")  # "module:factory" is looked for where the user stands, too
    COMMANDS[command](rest)


def run(arguments: list[str]) -> None:
    """Run an experiment, or resume one, and print the table of clients."""
    from pfedhr.launch import resume, start
    from pfedhr.report.console import ProgressDisplay, better_off, client_table, show, table_console
    from pfedhr.run import resuming
    from pfedhr.stored import stored_experiment

    engine, arguments = take(arguments, "--engine")
    if engine not in (None, "in-process", "flower"):
        raise UsageError(f"--engine {engine}: choose in-process or flower")
    stopped, arguments = take(arguments, "--resume")
    out, arguments = take(arguments, "--out")
    workers: int | None = None
    if stopped:
        given, arguments = take(arguments, "--workers")
        if arguments or out:
            raise UsageError("--resume takes the run's directory, and --workers N if need be: a run goes on as it began")
        if given and engine == "flower":
            raise UsageError("--workers is for runs in-process: on Flower a run goes on with the number that it began with")
        workers = count("--workers", given) if given else None
        path = named_path(stopped)
        experiment = stored_experiment(path)
    else:
        experiment = _experiment(arguments)
        path = named_path(out) if out else free_folder(experiment.name)
        check_writable(path)
    console = table_console()
    on = resuming(path, engine == "flower")
    try:
        with ProgressDisplay(console) as display:
            if engine == "flower":
                from pfedhr.flower.launching import resume_simulation, simulate

                outcomes = resume_simulation(path, display) if stopped else simulate(experiment, path, display)
            else:
                outcomes = resume(path, display, workers) if stopped else start(experiment, path, display)
    except KeyboardInterrupt:
        begun = (path / "experiment.toml").exists()
        print("pfedhr: stopped;", f"go on with: {on}" if begun else "nothing had begun", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno in FULL and (path / "experiment.toml").exists():
            raise PfedhrError(f"{path}: {error.strerror}: make room, then {on}") from error
        raise
    show(console, client_table(outcomes, experiment.algorithm.name))
    print(*filter(None, [better_off(outcomes)]), f"written to {path}", sep="\n")


def inspect(arguments: list[str]) -> None:
    """Print a network's blocks: their types, shapes, parameters and names."""
    import torch

    from pfedhr.models import ModelSpec
    from pfedhr.report.console import block_table, show, table_console

    shape, arguments = take(arguments, "--shape")
    classes, arguments = take(arguments, "--classes")
    tokens, arguments = "--tokens" in arguments, [word for word in arguments if word != "--tokens"]
    if len(arguments) != 1:
        raise UsageError("pfedhr inspect takes one MODEL, as in: pfedhr inspect cnn1 --shape 3,32,32 --classes 10")
    spec = ModelSpec(arguments[0], input_shape("--shape", shape or "3,32,32"), count("--classes", classes or "10"))
    show(table_console(), block_table(spec, torch.int64 if tokens else torch.float32))


def list_presets(arguments: list[str]) -> None:
    """Print the presets, each with the comment that it begins with."""
    from pfedhr.experiment_file import presets

    if arguments:
        raise UsageError(f"pfedhr presets takes no arguments, not {' '.join(arguments)}")
    for name, text in presets().items():
        print(f"{name:<18}{text.splitlines()[0].lstrip('# ')}")


def compare(arguments: list[str]) -> None:
    """Run methods side by side."""
    from pfedhr.cli_studies import compare

    compare(arguments)


def reproduce(arguments: list[str]) -> None:
    """Run a table or figure of the paper."""
    from pfedhr.cli_studies import reproduce_target

    reproduce_target(arguments)


def report(arguments: list[str]) -> None:
    """Write a study's tables and figures again."""
    from pfedhr.cli_studies import report

    report(arguments)


def flower(arguments: list[str]) -> None:
    """Write a Flower app to begin from."""
    from pfedhr.flower.new import new_app

    if len(arguments) != 2 or arguments[0] != "new":
        raise UsageError("pfedhr flower takes: new DIR")
    for path in new_app(named_path(arguments[1])):
        print(path)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "run": run,
    "compare": compare,
    "reproduce": reproduce,
    "report": report,
    "flower": flower,
    "inspect": inspect,
    "presets": list_presets,
}


def _experiment(arguments: list[str]) -> Experiment:
    """Return the named experiment with the fields that the command line sets."""
    from pfedhr.experiment_file import load_experiment, override

    if not arguments or arguments[0].startswith("-"):
        if {"-h", "--help"} & set(arguments):
            print(USAGE)
            _print_names()
            sys.exit(0)
        raise UsageError("pfedhr run takes a preset or a file first, as in: pfedhr run demo; see pfedhr presets")
    name, *settings = arguments
    asked = [word for word in settings if word not in ("-h", "--help")]
    experiment = override(load_experiment(name), asked)
    if len(asked) < len(settings):
        _print_fields(experiment, name)
        sys.exit(0)
    return experiment


def _print_names() -> None:
    """Print what methods and networks are called."""
    from pfedhr.algorithms import ALGORITHMS
    from pfedhr.zoo import ZOO

    for what, names in (("Methods, for --algorithm.name: ", ALGORITHMS), ("Networks, for --clients.models: ", ZOO)):
        print("", *textwrap.wrap(what + ", ".join(names), 88, subsequent_indent="  ", break_on_hyphens=False), sep="\n")


def _print_fields(experiment: Experiment, name: str) -> None:
    """Print every field of an experiment with its meaning and its value there."""
    import tyro

    tyro.cli(
        type(experiment),
        prog=f"pfedhr run {name}",
        description=f"Fields of {name}, of which --algorithm.name {experiment.algorithm.name} decides the last ones; besides, "
        "--out DIR is the directory to write to.",
        args=["--help"],
        default=experiment,
        config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
    )
