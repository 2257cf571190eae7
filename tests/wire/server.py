"""The server of the wire test: python server.py SOCKET. It prints a line of JSON a round."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, Listener
from typing import Any

import torch
from setting import ALGORITHM, CLIENTS, SCHEDULE, SEED, receive, send
from toy import separable

from pfedhr.algorithm import ServerView
from pfedhr.federate import federate
from pfedhr.learning import Score
from pfedhr.transport import Admit, Order, Report, Scores


class Wire:
    """The transport over one line a client; it keeps what went over it."""

    def __init__(self, lines: Mapping[str, Connection]) -> None:
        self.lines = lines
        self.carried = b""

    def exchange(self, outbox: Mapping[str, Order], admit: Admit) -> dict[str, Report]:
        for client, order in outbox.items():
            send(self.lines[client], {"round": order.round, "evaluate": order.evaluate}, order.message)
        reports: dict[str, Report] = {}
        for client in outbox:
            header, reply = receive(self.lines[client])
            own, teacher = (Score(**score) if score else None for score in (header["own"], header["teacher"]))
            reports[client] = Report(reply, {}, Scores(own, teacher) if own else None)
            self.carried += reply or b""
        refused = admit({client: report.reply for client, report in reports.items() if report.reply is not None})
        return {client: report for client, report in reports.items() if client not in refused}


def main() -> None:
    with Listener(sys.argv[1], "AF_UNIX") as listener:
        print("listening", flush=True)
        lines: dict[str, Connection] = {}
        for _ in CLIENTS:
            line = listener.accept()
            lines[line.recv_bytes().decode()] = line

    def server_view(round: int) -> ServerView:
        def one_by_one(work: Any, jobs: Sequence[Any], result: type[Any]) -> list[Any]:
            return [work(job, view) for job in jobs]

        view = ServerView(separable(16, "public"), 4, False, round, SEED, torch.device("cpu"), one_by_one)
        return view

    wire = Wire(lines)
    for result in federate(ALGORITHM, wire, server_view, CLIENTS, SCHEDULE, SEED):
        teachers = {client: scores.teacher is not None for client, scores in result.scores.items()}
        told = {"round": result.round, "recipes": result.server["teachers"], "taught": teachers, "bytes_up": result.bytes_up}
        print(json.dumps(told), flush=True)
    foreign = [name for name in sys.modules if name.endswith("_network")]
    named = [client for client in CLIENTS if f"{client}_network".encode() in wire.carried]
    print(json.dumps({"imported": foreign, "named": named}), flush=True)
    for line in lines.values():
        line.close()


if __name__ == "__main__":
    main()
