"""The two sides of the federation: what a client has, and what the server has. Change both to what is true of yours."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import safetensors.torch
import torch

from pfedhr import Examples, Experiment, Participant, Unlabelled, load_experiment
from pfedhr.data import Federation, Public, build_federation
from pfedhr.flower.grid import client_app, server_app
from pfedhr.flower.mailbox import Mailbox
from pfedhr.flower.serving import ServerData, serve
from pfedhr.models import ModelSpec

CLASSES = 10
SHAPE = (1, 28, 28)
EXPERIMENT = Path(__file__).with_name("experiment.toml")


def load_client(run: Mapping[str, object], node: Mapping[str, object]) -> Participant:
    """Return the client at this node, whose own folder the node was started with: --node-config 'home="/srv/clinic"'.

    The folder holds model.py, with a function network(shape, classes), and data.safetensors; neither ever leaves it.
    """
    if "home" not in node:
        return _simulated(int(str(node["partition-id"])))
    home = Path(str(node["home"]))
    sys.path.insert(0, str(home))  # so that "model:network" is this client's own
    held = safetensors.torch.load_file(home / "data.safetensors")
    return Participant(
        id=str(node.get("name", home.name)),
        network=ModelSpec("model:network", SHAPE, CLASSES, _experiment().clients.features),
        train=Examples(held["train_inputs"], held["train_labels"]),
        test=Examples(held["test_inputs"], held["test_labels"]),
        public=_public(home),
        folder=home / "states",
    )


def run_server(mailbox: Mailbox, run: Mapping[str, object]) -> None:
    """Run the experiment, or go on with it, with the public data of the server's folder."""
    named = str(run["server-home"])
    home = Path(named or Path.home() / "my-federation")
    public = _public(home) if named else _federation().public
    serve(mailbox, load_experiment(str(EXPERIMENT)), ServerData(public, CLASSES, mirror=True), home / "runs")


def _public(home: Path) -> Public:
    """Return the public data in a folder, labelled or not; none where there is no such file."""
    file = home / "public.safetensors"
    if not file.exists():
        return Examples(torch.zeros(0, *SHAPE, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    held = safetensors.torch.load_file(file)
    return Examples(held["inputs"], held["labels"]) if "labels" in held else Unlabelled(held["inputs"])


def _simulated(number: int) -> Participant:
    """Return a client of a simulation, with a share of the embedded images."""
    federation, experiment = _federation(), _experiment()
    name = list(federation.clients)[number]
    data, models = federation.clients[name], experiment.clients.models
    network = ModelSpec(models[number % len(models)], SHAPE, CLASSES, experiment.clients.features)
    states = Path.home() / "my-federation" / "clients" / name
    return Participant(name, network, data.train, data.test, federation.public, states)


@cache
def _federation() -> Federation:
    experiment = _experiment()
    return build_federation(experiment.data, experiment.public, experiment.clients.count, experiment.seed)


@cache
def _experiment() -> Experiment:
    return load_experiment(str(EXPERIMENT))


server = server_app(run_server)
client = client_app(load_client)
