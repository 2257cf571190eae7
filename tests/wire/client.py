"""A client of the wire test: python client.py SOCKET NAME, with the folder of its own network on PYTHONPATH."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import asdict
from multiprocessing.connection import Client

import torch
from setting import ALGORITHM, CLIENTS, SEED, TRAINING, receive, send
from toy import separable

from pfedhr.algorithm import ClientView
from pfedhr.models import ModelSpec
from pfedhr.transport import Order, handle


def main() -> None:
    place, name = sys.argv[1:]
    importable = [client for client in CLIENTS if importlib.util.find_spec(f"{client}_network")]
    if importable != [name]:
        raise SystemExit(f"{name} can import the networks of {importable}")
    network = ModelSpec(f"{name}_network:make", (1, 8, 8), 4)
    state: bytes | None = None
    with Client(place, "AF_UNIX") as line:
        line.send_bytes(name.encode())
        while True:
            try:
                header, message = receive(line)
            except EOFError:
                return
            train, public = separable(24, name, "train"), separable(16, "public")
            view = ClientView(name, network, train, public, TRAINING, None, header["round"], SEED, torch.device("cpu"))
            order = Order(header["round"], message, header["evaluate"])
            report, moved = handle(ALGORITHM, view, separable(12, name, "test"), order, state)
            state = moved or state
            scores = report.scores
            told = {
                "own": asdict(scores.own) if scores else None,
                "teacher": asdict(scores.teacher) if scores and scores.teacher else None,
            }
            send(line, told, report.reply)


if __name__ == "__main__":
    main()
