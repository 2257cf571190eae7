"""A run of the command line on Flower's simulation: starts Flower's processes, watches the run's files, and ends them all."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pfedhr.disk import locked
from pfedhr.errors import FAILURE
from pfedhr.experiment import Experiment
from pfedhr.experiment_file import dump
from pfedhr.flower.processes import Family, FlowerError, await_answer, free_port
from pfedhr.flower.simulation import DIRECTORY
from pfedhr.launch import prepare
from pfedhr.run import (
    ClientOutcome,
    RunDirectory,
    RunError,
    check_free,
    on_flower,
    read_outcomes,
    read_rounds,
    resuming,
    run_name,
)
from pfedhr.stored import keep_data, stored_experiment
from pfedhr.watching import Watcher

LOG = "flower.log"
"""What Flower's processes say, in the run's directory."""
PYPROJECT = """\
[project]
name = "pfedhr-simulation"
version = "1.0.0"
description = "A run of pfedhr"
license = {{ file = "LICENSE" }}
dependencies = ["flwr[simulation]>=1.41"]

[tool.flwr.app]
publisher = "pfedhr"
fab-format-version = 1
flwr-version-target = "1.41.0"

[tool.flwr.app.components]
serverapp = "{server}"
clientapp = "{client}"

[tool.flwr.app.config]
run-directory = ""
"""


@dataclass(frozen=True)
class App:
    """The two sides of a Flower app, each as "module:attribute"."""

    server: str
    client: str


OURS = App("pfedhr.flower.grid:simulation_server", "pfedhr.flower.grid:simulation_client")


def simulate(experiment: Experiment, path: Path, watch: Watcher) -> list[ClientOutcome]:
    """Run an experiment on Flower's simulation in the new directory `path`; return how each client ended.

    Nothing is written before the experiment has been checked. Raises RunError if `path` is not empty, and FlowerError.
    """
    _require_flower()
    check_free(path)
    cohort = prepare(experiment)
    directory = RunDirectory.create(path, dump(experiment))
    keep_data(path, cohort.federation.digests)
    run_name(path, directory)
    return _run(experiment, path, watch)


def resume_simulation(path: Path, watch: Watcher) -> list[ClientOutcome]:
    """Take up the run in `path` on Flower's simulation where it was left. Raises RunError, LockedError and FlowerError."""
    _require_flower()
    experiment = stored_experiment(path)
    if not on_flower(path):
        raise RunError(f"the run in {path} was begun in-process, and its clients' states are there: leave out --engine flower")
    return _run(experiment, path, watch)


def _require_flower() -> None:
    for module in ("flwr", "ray"):
        if importlib.util.find_spec(module) is None:
            raise FlowerError(f"{module} is not installed: pip install 'pfedhr[flower]'")


def _run(experiment: Experiment, path: Path, watch: Watcher) -> list[ClientOutcome]:
    with locked(path):  # the run's server does so again; while another's is at work there, its files are not to be touched
        (path / FAILURE).unlink(missing_ok=True)
    follow = _Follower(experiment, path, watch)
    run_app(OURS, path, experiment.clients.count, experiment.workers, follow.look)
    if (path / FAILURE).exists():
        raise FlowerError((path / FAILURE).read_text(encoding="utf-8"))
    ended = (path / "clients.csv").exists() and len(read_rounds(path)) == experiment.plan.rounds  # else of fewer rounds
    if not ended:
        on = resuming(path, flower=True)
        raise FlowerError(f"the run on Flower ended before its last round: see {path / LOG}, and go on with: {on}")
    return read_outcomes(path)


def run_app(app: App, path: Path, nodes: int, processes: int, look: Callable[[], None]) -> None:
    """Run an app on Flower's simulation of so many nodes in so many processes, to its end, good or bad.

    Its run is given `path`, whose LOG takes what Flower says; `look` is called time and again. Raises FlowerError.
    """
    with tempfile.TemporaryDirectory() as home, (path / LOG).open("ab") as log, _family(Path(home), log) as family:
        port = free_port()
        address = f"127.0.0.1:{port}"
        folder = _write_app(app, Path(home), address)
        link = family.start("flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port))
        await_answer(link, f"http://{address}/health", path / LOG)
        size = f"num-supernodes={nodes} client-resources-num-cpus=1 init-args-num-cpus={processes}"
        setting = f'{DIRECTORY}="{path.resolve()}"'
        words = ["run", str(folder), "simulation", "--stream", "--federation-config", size, "--run-config", setting]
        run = family.start("flwr", *words)
        while run.poll() is None:
            time.sleep(0.1)
            look()
    look()


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


def _write_app(app: App, home: Path, address: str) -> Path:
    """Write Flower's settings and the app, which holds no code of its own; return the app's folder."""
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "simulation"\n\n[superlink.simulation]\naddress = "{address}"\ninsecure = true\n',
        encoding="utf-8",
    )
    folder = home / "app"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PYPROJECT.format(server=app.server, client=app.client), encoding="utf-8")
    (folder / "LICENSE").write_text("Apache-2.0\n", encoding="utf-8")
    return folder


def _family(home: Path, log: IO[bytes]) -> Family:
    """Return a family of processes that find what this one would find from where it stands."""
    places = [os.getcwd(), os.environ.get("PYTHONPATH", "")]
    return Family({"FLWR_HOME": str(home), "PYTHONPATH": os.pathsep.join(filter(None, places))}, log)
