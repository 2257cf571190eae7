"""The wall time of `pfedhr run demo` in a process of its own, clients alone for comparison included."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator

from benchmarks.help import COMMAND
from benchmarks.timing import Measurement, Target, seconds


def measure() -> Iterator[Measurement]:
    """Yield the seconds that the demo takes, once."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*COMMAND, "run", "demo", "--out", f"{folder}/demo"]
        time = seconds(lambda: subprocess.run(command, check=True, capture_output=True))
    yield Measurement("demo", (time,), "s", Target(300, at_least=False), "once; target for two cores of one's own")
