"""The wall time of `pfedhr --help` in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.timing import Measurement, Target, interleaved

# What the console script does, whether or not its folder is on the search path.
COMMAND = (sys.executable, "-c", "from pfedhr.cli import main; main()")
REPEATS = 10


def measure() -> Iterator[Measurement]:
    """Yield the seconds that the help takes."""
    (times,) = interleaved(lambda: subprocess.run([*COMMAND, "--help"], check=True, capture_output=True), repeats=REPEATS)
    yield Measurement("help", times, "s", Target(0.5, at_least=False))
