"""Run the named benchmarks, or all: `python -m benchmarks [NAME ...]`."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from benchmarks import blueprint, demo, fit, help, overhead, similarity, teacher, workers
from benchmarks.timing import Measurement

BENCHMARKS: dict[str, Callable[[], Iterator[Measurement]]] = {
    "help": help.measure,
    "similarity": similarity.measure,
    "fit": fit.measure,
    "teacher": teacher.measure,
    "blueprint": blueprint.measure,
    "overhead": overhead.measure,
    "workers": workers.measure,
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
        f"torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, {_processor()}\n"
        "median (least to most) of the repeats; a target is held against the median",
        flush=True,
    )
    for name in names or BENCHMARKS:
        for measurement in BENCHMARKS[name]():
            print(measurement, flush=True)
    return 0


def _processor() -> str:
    """Return the processor's name as far as the system tells it."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.is_file() else []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
