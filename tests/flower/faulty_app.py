"""A Flower app whose clients fail, are late, or answer what they were not asked for, each once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

from flower.faults import FAULTS, LATE, SCHEDULE, TIMEOUT, cohort
from flower.postbox import RUN, experiment_of
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from pfedhr.algorithms.local import Local
from pfedhr.federate import federate
from pfedhr.flower.errands import Errand, Participant, RollCall, States, perform, present
from pfedhr.flower.grid import contents, parcels, server_app
from pfedhr.flower.mailbox import Mailbox
from pfedhr.flower.remote import Remote
from pfedhr.flower.roster import Roster
from pfedhr.flower.simulation import DIRECTORY
from pfedhr.in_process import MemoryStore, sequential
from pfedhr.parcel import pack, unpack


def serve(mailbox: Mailbox, run: Mapping[str, object]) -> None:
    """Run `local`, and write who took part in each round, and every client's last state."""
    path, held = Path(str(run[DIRECTORY])), cohort()
    roster = Roster(mailbox)
    roster.gather(len(held.networks), 60.0)

    def states(client: str, round: int) -> bytes | None:
        return States(path / client / RUN).load(round)

    experiment = experiment_of(Local(), held, round_timeout=TIMEOUT)
    clients = list(held.networks)
    remote = Remote(
        experiment,
        RUN,
        mailbox,
        roster,
        clients,
        MemoryStore(),
        lambda round: sequential(lambda map: held.server_view(round, map)),
        states,
    )
    results = list(federate(Local(), remote, remote.server_view, clients, SCHEDULE, held.seed))
    took_part = [sorted(result.clients) for result in results]
    ends = {client: hashlib.sha256(remote.state(client) or b"").hexdigest() for client in clients}
    (path / "found.json").write_text(json.dumps([took_part, ends]))


def load(context: Context) -> Participant:
    held = cohort()
    name = list(held.networks)[int(context.node_config["partition-id"])]
    data = held.federation.clients[name]
    folder = Path(str(context.run_config[DIRECTORY])) / name
    return Participant(name, held.networks[name], data.train, data.test, held.federation.public, folder)


server = server_app(serve)
client = ClientApp()


@client.query()
def roll_call(message: Message, context: Context) -> Message:
    head, _ = parcels(message.content)
    return Message(contents(pack(present(load(context), unpack(RollCall, head))), None), reply_to=message)


@client.train()
def errand(message: Message, context: Context) -> Message:
    head, body = parcels(message.content)
    asked = unpack(Errand, head)
    fault = FAULTS.get((asked.client, asked.round))
    if fault == "raises":
        raise ValueError("out of order")
    if fault == "late":
        time.sleep(LATE)
    answer, reply = perform(load(context), asked, body)
    if fault == "as another":
        answer = dataclasses.replace(answer, client="client00")
    if fault == "other records":
        return Message(RecordDict({"other": ConfigRecord({"a": 1})}), reply_to=message)
    return Message(contents(b"garbage" if fault == "garbage" else pack(answer), reply), reply_to=message)
