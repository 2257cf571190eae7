"""Run the named benchmarks, or all: `python -m benchmarks [NAME ...]`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

import torch

from benchmarks import (
    blueprint,
    demo,
    fit,
    flower,
    help,
    overhead,
    replay,
    rounds,
    server,
    similarity,
    table2,
    teacher,
    workers,
)
from benchmarks.timing import Measurement
from pfedhr.machine import machine, versions

BENCHMARKS: dict[str, Callable[[], Iterator[Measurement]]] = {
    "help": help.measure,
    "similarity": similarity.measure,
    "fit": fit.measure,
    "replay": replay.measure,
    "teacher": teacher.measure,
    "blueprint": blueprint.measure,
    "overhead": overhead.measure,
    "workers": workers.measure,
    "rounds": rounds.measure,
    "server": server.measure,
    "table2": table2.measure,
    "flower": flower.measure,
    "demo": demo.measure,
}


def main(names: Sequence[str]) -> int:
    """Print a line a measurement; return 0 whether targets are met or not, 2 for a name that is not known."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"no benchmark is called {', '.join(unknown)}: known are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    # As the library does while it trains: small networks are no faster on more threads, and measurements less steady.
    torch.set_num_threads(1)
    print(
        f"{versions()}, {machine()}\nmedian (least to most) of the repeats; a target is held against the median",
        flush=True,
    )
    for name in names or BENCHMARKS:
        for measurement in BENCHMARKS[name]():
            print(measurement, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
