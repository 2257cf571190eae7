"""A deployment for tests: its machines, a look at what its server has written, and the same federation without a network."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from deployment.folders import CLIENTS, make_folders
from deployment.machines import Node, Operator, Server

from pfedhr.data import ClientData, Examples, Federation
from pfedhr.experiment_file import parse
from pfedhr.federate import federate
from pfedhr.flower.processes import free_port
from pfedhr.in_process import Cohort, InProcess, Workers
from pfedhr.models import ModelSpec
from pfedhr.record import record
from pfedhr.run import read_rounds

EXPERIMENT = """
name = "deployed"
compare_local = false
[clients]
count = 3
[plan]
rounds = {rounds}
active = 3
local_epochs = 1
[algorithm]
name = "pfedhr"
preset = "paper"
groups = 3
tuning_epochs = 1
[engine]
min_clients = {min_clients}
round_timeout = {round_timeout}
"""


@dataclass(frozen=True)
class Deployment:
    """Machines that run: the server's, the operator's, and the clients' by name."""

    place: Path
    server: Server
    operator: Operator
    nodes: dict[str, Node]

    def results(self, name: str, rounds: int, min_clients: int, round_timeout: float = 120) -> Path:
        """Write an experiment into the app, and a folder that the server shall run it in; return where results will be."""
        text = EXPERIMENT.format(rounds=rounds, min_clients=min_clients, round_timeout=float(round_timeout))
        (self.place / "operator" / "app" / "experiment.toml").write_text(text)
        home = self.place / name
        home.mkdir()
        shutil.copy(self.place / "server" / "public.safetensors", home)
        return home / "runs"

    def wait(self, holds: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until `holds`, starting nodes that have ended; fail after `seconds`."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"no {what} in {seconds} s\n{self.said()}"
            for node in self.nodes.values():
                node.keep()
            time.sleep(0.1)

    def run_to_end(self, results: Path, seconds: float) -> None:
        """Run, or go on with, what `results` was made for, and wait until it is over."""
        run = self.operator.run(results.parent)
        self.wait(lambda: run.poll() is not None, "end of the run", seconds)
        assert (results / "clients.csv").exists(), self.said()

    def said(self) -> str:
        """Return the last of what the machines said."""
        logs = [self.server.log, self.operator.log, *(node.log for node in self.nodes.values())]
        return "\n".join(f"== {log}\n{log.read_text(errors='replace')[-2000:]}" for log in logs)


@contextlib.contextmanager
def deployment(place: Path) -> Iterator[Deployment]:
    """Start a deployment in the new folder `place`, and end all of its processes."""
    make_folders(place)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(place / "server", free_port()))
        server.start()
        operator = stack.enter_context(Operator(place / "operator", server))
        nodes = {name: stack.enter_context(Node(place / "clients" / name, server, free_port())) for name in CLIENTS}
        for node in nodes.values():
            operator.register(node.home / "key.pub")
            node.keep()
        yield Deployment(place, server, operator, nodes)


def running(numbers: Iterable[int], program: str) -> list[int]:
    """Return those of the processes that run `program`."""
    found: list[int] = []
    for number in numbers:
        with contextlib.suppress(OSError):
            if program.encode() in Path(f"/proc/{number}/cmdline").read_bytes():
                found.append(number)
    return found


def kill(numbers: list[int]) -> None:
    """End processes as the kernel does for want of memory."""
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def numbers(records: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Return of rounds what depends on no clock."""
    return [(one["round"], one["active"], one["accuracy"], one["losses"], one["candidates"]) for one in records]


def without_network(deployed: Deployment, results: Path) -> list[dict[str, Any]]:
    """Return the rounds of the run in `results` as this process gets them from the machines' files."""
    experiment = parse((results / "experiment.toml").read_text(), "the run's experiment")
    clients: dict[str, ClientData] = {}
    for name, node in deployed.nodes.items():
        held = safetensors.torch.load_file(node.home / "data.safetensors")
        parts = [Examples(held[f"{part}_inputs"], held[f"{part}_labels"]) for part in ("train", "test")]
        clients[name] = ClientData(*parts)
    held = safetensors.torch.load_file(results.parent / "public.safetensors")
    federation = Federation(clients, Examples(held["inputs"], held["labels"]), classes=10, mirror=True)
    networks = {name: ModelSpec(f"deployment.networks.{name}:network", (1, 28, 28), 10) for name in clients}
    cohort = Cohort(federation, networks, experiment.plan.training, None, experiment.seed, torch.device("cpu"))
    engine = InProcess(experiment.algorithm, Workers(cohort))
    plan = experiment.plan.schedule, experiment.seed
    return [record(one) for one in federate(experiment.algorithm, engine, engine.server_view, engine.clients, *plan)]


def rounds(results: Path) -> int:
    """Return how many rounds have ended."""
    return len(read_rounds(results))
