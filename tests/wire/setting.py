"""What server and clients of the wire test have agreed on, and how they speak: JSON, then a parcel if there is one."""

from __future__ import annotations

import json
from multiprocessing.connection import Connection
from typing import Any

from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.federate import Schedule
from pfedhr.learning import Training

ALGORITHM = PFedHR.paper(groups=3, candidates=6, tuning_epochs=1, probe=16)
CLIENTS = ("north", "south")
SCHEDULE = Schedule(rounds=3, active=2)
SEED = 0
TRAINING = Training(epochs=1, batch_size=8, learning_rate=0.002, weight_decay=0.0)


def send(line: Connection, header: dict[str, Any], parcel: bytes | None) -> None:
    line.send_bytes(json.dumps({**header, "parcel": parcel is not None}).encode())
    if parcel is not None:
        line.send_bytes(parcel)


def receive(line: Connection) -> tuple[dict[str, Any], bytes | None]:
    header = json.loads(line.recv_bytes())
    return header, line.recv_bytes() if header.pop("parcel") else None
