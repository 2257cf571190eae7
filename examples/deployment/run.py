"""A federation of three clients on Flower with TLS and node authentication, its machines played by this one.

    python examples/deployment/run.py [FOLDER]

Writes everything into FOLDER, by default ./deployment, which a later call goes on with. README.md does the same by hand.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

from folders import CLIENTS, make_folders
from machines import Node, Operator, Server

from pfedhr.flower.processes import free_port
from pfedhr.run import read_outcomes, read_rounds


def main(place: Path) -> None:
    """Prepare the machines, start them, run, print how the clients ended, and end every process."""
    if not place.exists():
        make_folders(place)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(place / "server", free_port()))
        print("starting the SuperLink", flush=True)
        server.start()
        operator = stack.enter_context(Operator(place / "operator", server))
        nodes = [stack.enter_context(Node(place / "clients" / name, server, free_port())) for name in CLIENTS]
        for node in nodes:
            print(f"starting {node.home.name}", flush=True)
            if not (registered := node.home / "registered").exists():
                operator.register(node.home / "key.pub")
                registered.touch()
            node.keep()
        results, told = server.home / "runs", 0
        run = operator.run(server.home)
        while (ended := run.poll()) is None or told < len(read_rounds(results)):
            for record in read_rounds(results)[told:]:
                told += 1
                accuracy = record["accuracy"] and f"{record['accuracy']['mean']:.3f}"
                print(f"round {record['round']}: {record['seconds']:.0f} s, mean accuracy {accuracy}", flush=True)
            for node in nodes:
                node.keep()  # a node that was away for less than a minute is refused at first
            time.sleep(1.0 if ended is None else 0.0)
    if not (results / "clients.csv").exists():
        sys.exit(f"the run has ended before its last round: see {operator.log} and {server.log}, and call this again")
    print(f"\n{'client':8}{'network':16}{'parameters':>10}{'test':>6}{'accuracy':>10}")
    for one in read_outcomes(results):
        print(f"{one.client:8}{one.model:16}{one.parameters:>10,}{one.test:>6}{one.accuracy:>10.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "deployment"))
