"""Flower's processes: started under settings that keep Flower to this machine, and ended with all that they began."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from pfedhr.errors import PfedhrError

STARTED_BY = "PFEDHR_STARTED_BY"
"""Marks in the environment every process of a family, so that all of them can be ended."""
OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "OMP_NUM_THREADS": "1",
}
"""Settings under which Flower and Ray keep to this machine."""
START_SECONDS = 120.0
"""How long a process is given to be ready."""
END_SECONDS = 5.0
"""How long a process is given to end by itself."""


class FlowerError(PfedhrError):
    """Flower is missing, does not start, or ends without results; the message says where to look."""


class Family:
    """Commands of this Python's environment, and all processes that come of them, which a `with` block ends.

    Flower and Ray detach their processes from who began them, so these are known by a mark in their environment. Should this
    process be killed inside the block, a guard ends them: it reads from a pipe that nobody writes to, and that ends with us.
    """

    def __init__(self, settings: Mapping[str, str], log: IO[bytes]) -> None:
        """`settings` are further variables of the environment; `log` takes what the commands say."""
        self._mark, self._log = secrets.token_hex(8), log
        self._places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        self._environment = os.environ | OFFLINE | {STARTED_BY: self._mark, "PATH": self._places, **settings}
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Family:
        words = [sys.executable, "-m", __name__, self._mark]
        outside = self._environment | {STARTED_BY: ""}
        self._guard = subprocess.Popen(  # in a session of its own, out of reach of Ctrl-C and of a terminal that is closed
            words, env=outside, stdin=subprocess.PIPE, stdout=self._log, stderr=self._log, start_new_session=True
        )
        return self

    def __exit__(self, *problem: object) -> None:
        for process in reversed(self._started):
            process.terminate()
        for process in self._started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
        self.kill()
        self._guard.communicate()

    def start(self, command: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command. Raises FlowerError if it is not installed."""
        program = shutil.which(command, path=self._places)
        if program is None:
            raise FlowerError(f"{command} was not found: pip install 'pfedhr[flower]'")
        words, nothing = [program, *arguments], subprocess.DEVNULL
        self._started.append(subprocess.Popen(words, env=self._environment, stdin=nothing, stdout=self._log, stderr=self._log))
        return self._started[-1]

    def kill(self) -> None:
        """End all processes of the family at once, as a machine does that loses its power."""
        _kill_all(self._mark)
        for process in self._started:
            process.wait()

    def members(self) -> Iterator[int]:
        """Yield the numbers of the family's processes."""
        return _members(self._mark)


def _members(mark: str) -> Iterator[int]:
    return processes_with(f"{STARTED_BY}={mark}")


def _kill_all(mark: str) -> None:
    while members := list(_members(mark)):  # one that was being started is found the next time
        for number in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


def processes_with(setting: str) -> Iterator[int]:
    """Yield the numbers of the processes that were started with NAME=VALUE in their environment."""
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if setting.encode() in entry.read_bytes().split(b"\0"):
                yield int(entry.parent.name)


def await_answer(process: subprocess.Popen[bytes], address: str, log: Path, trusted: ssl.SSLContext | None = None) -> None:
    """Wait until `process` answers at `address`; `trusted` is who may sign for it. Raises FlowerError, which names `log`."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=2, context=trusted):
            return
        time.sleep(0.2)
    raise FlowerError(f"the SuperLink did not start: see {log}")


def free_port() -> int:
    """Return a port of this machine that nothing listens at."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


if __name__ == "__main__":  # the guard of a family
    sys.stdin.read()
    _kill_all(sys.argv[1])
