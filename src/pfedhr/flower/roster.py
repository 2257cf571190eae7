"""Who takes part in a federation over a mailbox."""

from __future__ import annotations

import time

from pfedhr.flower.errands import Presence, RollCall
from pfedhr.flower.mailbox import PAUSES, Delivery, FederationError, Letter, Mailbox, wait
from pfedhr.parcel import ParcelError, pack, unpack
from pfedhr.transport import LOG


class Roster:
    """Which client sits at which node, found out by asking each node once while it can be reached."""

    def __init__(self, mailbox: Mailbox, experiment: str = "") -> None:
        """`experiment`, if given, is what clients shall say whether they can take part in."""
        self._mailbox = mailbox
        self._call = pack(RollCall(experiment))
        self._nodes: dict[int, str] = {}
        self.asked: dict[str, int] = {}
        self.present: dict[str, Presence] = {}
        self.wanted: frozenset[str] | None = None

    def call(self) -> dict[str, int]:
        """Ask the nodes that are new; return the node of every client that can be reached now."""
        online = set(self._mailbox.nodes())
        self._nodes = {node: client for node, client in self._nodes.items() if node in online}
        strangers = sorted(online - self._nodes.keys() - set(self.asked.values()))
        numbers = self._mailbox.send([Letter(node, "roll call", self._call) for node in strangers])
        self.asked |= {number: node for number, node in zip(numbers, strangers, strict=True) if number}
        return {client: node for node, client in self._nodes.items() if client}

    def take(self, delivery: Delivery) -> bool:
        """Note the answer to a roll call, and return whether it was one."""
        if (node := self.asked.pop(delivery.letter, None)) is None:
            return False
        self._nodes[node] = ""  # not asked again while it stays, whatever it said
        try:
            if delivery.failure:
                raise FederationError(delivery.failure)
            who = unpack(Presence, delivery.head)
            if who.problem:
                raise FederationError(f"{who.client} cannot take part: {who.problem}")
            if self.wanted is not None and who.client not in self.wanted:
                raise FederationError(f"{who.client[:60]!r} is not a client of this run")
            if who.client in self._nodes.values():
                raise FederationError(f"{who.client} is at another node already")
        except (FederationError, ParcelError) as error:
            LOG.warning("node %d is left out: %s", node, error)
            return True
        self._nodes[node] = who.client
        self.present[who.client] = who
        return True

    def gather(self, count: int, seconds: float) -> list[str]:
        """Wait until `count` clients are there, and return their names, sorted. Raises FederationError if they do not come."""
        deadline, pause = time.monotonic() + seconds, PAUSES[0]
        while len(there := self.call()) < count:
            news = self._mailbox.collect(list(self.asked))
            for delivery in news:
                self.take(delivery)
            if not news and time.monotonic() > deadline:
                raise FederationError(
                    f"{len(there)} of {count} clients have come in {seconds:g} seconds: start the others, or raise "
                    f"engine.round_timeout"
                )
            pause = PAUSES[0] if news else wait(pause)
        return sorted(there)
