"""What the machines of the example hold before anything is started: certificates, keys, data, networks, and Flower's app."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import safetensors.torch
from torch import Tensor

from pfedhr.data import DataOptions, Examples, PublicOptions, build_federation
from pfedhr.flower.new import new_app

HERE = Path(__file__).parent
CLIENTS = ("bank", "factory", "hospital")
EXAMPLES = 600
"""How many of the embedded images are shared out."""


def make_folders(place: Path, experiment: Path = HERE / "experiment.toml") -> None:
    """Write a folder for each machine into the new folder `place`."""
    place.mkdir(parents=True)
    make_certificates(place / "server")
    data = build_federation(DataOptions(examples=EXAMPLES), PublicOptions(), len(CLIENTS), seed=0)
    assert isinstance(data.public, Examples)
    safetensors.torch.save_file(_named("", data.public), place / "server" / "public.safetensors")
    for name, held in zip(CLIENTS, data.clients.values(), strict=True):
        home = place / "clients" / name
        home.mkdir(parents=True)
        tensors = _named("train_", held.train) | _named("test_", held.test)
        safetensors.torch.save_file(tensors, home / "data.safetensors")
        shutil.copy(HERE / "networks" / f"{name}.py", home / "model.py")
        shutil.copy(place / "server" / "ca.crt", home)
        make_node_key(home / "key")
    new_app(place / "operator" / "app")
    shutil.copy(experiment, place / "operator" / "app" / "experiment.toml")
    shutil.copy(place / "server" / "ca.crt", place / "operator")


def make_certificates(folder: Path) -> None:
    """Write an authority, ca.crt, and a certificate of it for this machine, server.crt, with their keys into `folder`."""
    folder.mkdir()
    new_key = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes")
    _run(folder, "openssl", *new_key, "-x509", "-days", "30", "-subj", "/CN=our-ca", "-keyout", "ca.key", "-out", "ca.crt")
    _run(folder, "openssl", *new_key, "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr")
    (folder / "names.cnf").write_text("subjectAltName = DNS:localhost, IP:127.0.0.1\n", encoding="utf-8")
    signed = ("x509", "-req", "-days", "30", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names.cnf")
    _run(folder, "openssl", *signed, "-in", "server.csr", "-out", "server.crt")


def make_node_key(file: Path) -> None:
    """Write a node's key, and beside it the public half, `file`.pub."""
    _run(file.parent, "ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-C", file.parent.name, "-f", str(file))


def _named(prefix: str, examples: Examples) -> dict[str, Tensor]:
    return {f"{prefix}inputs": examples.inputs, f"{prefix}labels": examples.labels}


def _run(folder: Path, *command: str) -> None:
    """Run a command in `folder`; what it says is seen only if it fails."""
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)}\n{ended.stderr}")
