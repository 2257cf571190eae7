"""A run of the command line on Flower's simulation: starts Flower's processes, watches the run's files, and ends them all."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import BinaryIO

from pfedhr.errors import PfedhrError
from pfedhr.experiment import Experiment
from pfedhr.experiment_file import dump
from pfedhr.flower.simulation import DIRECTORY, FAILURE
from pfedhr.launch import Watcher, prepare, stored_experiment
from pfedhr.run import ClientOutcome, RunDirectory, check_free, read_outcomes, read_rounds

LOG = "flower.log"
"""What Flower's processes say, in the run's directory."""
STARTED_BY = "PFEDHR_STARTED_BY"
"""Marks in the environment every process that a run has started, so that it can end them all."""
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "OMP_NUM_THREADS": "1",
}
"""Settings under which Flower and Ray keep to this machine."""
START_SECONDS = 120.0
PYPROJECT = """\
[project]
name = "pfedhr-simulation"
version = "1.0.0"
license = { file = "LICENSE" }
dependencies = ["flwr[simulation]>=1.41"]

[tool.flwr.app]
publisher = "pfedhr"
fab-format-version = 1
flwr-version-target = "1.41.0"

[tool.flwr.app.components]
serverapp = "pfedhr.flower.grid:simulation_server"
clientapp = "pfedhr.flower.grid:simulation_client"

[tool.flwr.app.config]
run-directory = ""
"""


Starter = Callable[..., "subprocess.Popen[bytes]"]
"""Starts a command with arguments."""


class FlowerError(PfedhrError):
    """Flower is missing, does not start, or ends without results; the message says where to look."""


def simulate(experiment: Experiment, path: Path, watch: Watcher) -> list[ClientOutcome]:
    """Run an experiment on Flower's simulation in the new directory `path`; return how each client ended.

    Nothing is written before the experiment has been checked. Raises RunError if `path` is not empty, and FlowerError.
    """
    _require_flower()
    check_free(path)
    prepare(experiment)
    RunDirectory.create(path, dump(experiment))
    return _run(experiment, path, watch)


def resume_simulation(path: Path, watch: Watcher) -> list[ClientOutcome]:
    """Take up the run in `path` on Flower's simulation where it was left. Raises RunError and FlowerError."""
    _require_flower()
    return _run(stored_experiment(path), path, watch)


def _require_flower() -> None:
    for module in ("flwr", "ray"):
        if importlib.util.find_spec(module) is None:
            raise FlowerError(f"{module} is not installed: pip install 'pfedhr[flower]'")


def _run(experiment: Experiment, path: Path, watch: Watcher) -> list[ClientOutcome]:
    (path / FAILURE).unlink(missing_ok=True)
    follow = _Follower(experiment, path, watch)
    with tempfile.TemporaryDirectory() as home, (path / LOG).open("ab") as log, _processes(Path(home), log) as start:
        port = _free_port()
        address = f"127.0.0.1:{port}"
        app = _write_app(Path(home), address)
        link = start("flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port))
        _await_health(link, f"http://{address}/health", path)
        nodes = experiment.clients.count
        resources = f"num-supernodes={nodes} client-resources-num-cpus=1 init-args-num-cpus={experiment.workers}"
        run = start(
            "flwr",
            "run",
            str(app),
            "simulation",
            "--stream",
            "--federation-config",
            resources,
            "--run-config",
            f'{DIRECTORY}="{path.resolve()}"',
        )
        while run.poll() is None:
            time.sleep(0.1)
            follow.look()
    follow.look()
    if (path / FAILURE).exists():
        raise FlowerError((path / FAILURE).read_text(encoding="utf-8"))
    if not (path / "clients.csv").exists():
        raise FlowerError(f"the run on Flower ended before its last round: see {path / LOG}, and go on with --resume {path}")
    return read_outcomes(path)


class _Follower:
    """Tells a watcher of the rounds that appear in a run's files."""

    def __init__(self, experiment: Experiment, path: Path, watch: Watcher) -> None:
        self._rounds, self._watch = experiment.plan.schedule.rounds, watch
        labels = {"local": path / "local", experiment.algorithm.name: path}
        self._folders = labels if experiment.compare_local else {experiment.algorithm.name: path}
        self._told: dict[str, int] = {}

    def look(self) -> None:
        """Tell of what has happened since the last look."""
        for label, folder in self._folders.items():
            if not (folder / "experiment.toml").exists():
                continue
            rounds = read_rounds(folder)
            if label not in self._told:
                self._told[label] = len(rounds)
                self._watch.begin(label, self._rounds, len(rounds))
            for record in rounds[self._told[label] :]:
                self._watch.end_round(label, record)
            self._told[label] = len(rounds)


def _write_app(home: Path, address: str) -> Path:
    """Write Flower's settings and the app, which holds no code of its own; return the app's folder."""
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "simulation"\n\n[superlink.simulation]\naddress = "{address}"\ninsecure = true\n',
        encoding="utf-8",
    )
    app = home / "app"
    app.mkdir()
    (app / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (app / "LICENSE").write_text("Apache-2.0\n", encoding="utf-8")
    return app


@contextlib.contextmanager
def _processes(home: Path, log: BinaryIO) -> Generator[Starter]:
    """Give a function that starts a command of this Python's environment; end all that it started, and what they started."""
    mark = secrets.token_hex(8)
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | QUIET | {"FLWR_HOME": str(home), STARTED_BY: mark, "PATH": places}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH", "")]))
    started: list[subprocess.Popen[bytes]] = []

    def start(command: str, *arguments: str) -> subprocess.Popen[bytes]:
        program = shutil.which(command, path=places)
        if program is None:
            raise FlowerError(f"{command} was not found: pip install 'pfedhr[flower]'")
        started.append(
            subprocess.Popen([program, *arguments], env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        )
        return started[-1]

    try:
        yield start
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
        for number in _marked(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        for process in started:
            process.wait()


def _marked(mark: str) -> Iterator[int]:
    """Yield the processes that have the mark in their environment: Flower and Ray detach theirs from who began them."""
    wanted = f"{STARTED_BY}={mark}".encode()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in entry.read_bytes().split(b"\0"):
                yield int(entry.parent.name)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _await_health(link: subprocess.Popen[bytes], address: str, path: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and link.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(address, timeout=2):
            return
        time.sleep(0.2)
    raise FlowerError(f"Flower's SuperLink did not start: see {path / LOG}")
