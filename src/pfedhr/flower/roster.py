"""Who takes part in a federation over a mailbox."""

from __future__ import annotations

import re
import time

from pfedhr.algorithms.admission import MOST_EXAMPLES
from pfedhr.flower.errands import HEAD_LIMIT, Presence, RollCall
from pfedhr.flower.mailbox import PAUSES, Delivery, FederationError, Letter, Mailbox, wait
from pfedhr.parcel import ParcelError, pack, unpack
from pfedhr.transport import LOG, one_line

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""What clients may be called, for files are called by it: nothing that could lead out of a folder."""
AGAIN = 2.0, 300.0
"""Seconds until a node whose answer was a failure is asked again: the first time, and the longest that they grow to."""


class Roster:
    """Which client sits at which node, found out by asking each node while it can be reached, until it has said who it is."""

    def __init__(self, mailbox: Mailbox, experiment: str = "") -> None:
        """`experiment`, if given, is what clients shall say whether they can take part in."""
        self._mailbox = mailbox
        self._call = pack(RollCall(experiment))
        self._nodes: dict[int, str] = {}
        self._rivals: dict[int, str] = {}  # clients that are at other nodes, too, by node
        self._failed: dict[int, tuple[float, float]] = {}  # when to ask again, and the pause until then, by node
        self._times: dict[str, float] = {}
        self.asked: dict[str, int] = {}
        self.present: dict[str, Presence] = {}
        self.wanted: frozenset[str] | None = None

    def call(self) -> dict[str, int]:
        """Ask the nodes that have yet to say who they are; return the node of every client that can be reached now."""
        online = set(self._mailbox.nodes())
        self._nodes = {node: client for node, client in self._nodes.items() if node in online}
        # Flower counts a node that is gone as online for a minute: its client may be back at another by then.
        self._rivals = {node: client for node, client in self._rivals.items() if node in online and self._is_seated(client)}
        self._failed = {node: pause for node, pause in self._failed.items() if node in online}
        resting = {node for node, (until, _) in self._failed.items() if time.monotonic() < until}
        strangers = sorted(online - self._nodes.keys() - self._rivals.keys() - resting - set(self.asked.values()))
        numbers = self._mailbox.send([Letter(node, "roll call", self._call) for node in strangers])
        sent = {number: node for number, node in zip(numbers, strangers, strict=True) if number}
        self.asked |= sent
        self._times |= dict.fromkeys(sent, time.monotonic())
        return {client: node for node, client in self._nodes.items() if client and self._wants(client)}

    def expects(self, seconds: float) -> bool:
        """Return whether a node was asked within so many seconds that may yet answer; one may stay and never do so."""
        return any(time.monotonic() - self._times[number] < seconds for number in self.asked)

    def take(self, delivery: Delivery) -> bool:
        """Note the answer to a roll call, and return whether it was one."""
        if (node := self.asked.pop(delivery.letter, None)) is None:
            return False
        try:
            if delivery.failure:
                raise FederationError(delivery.failure)
            who = unpack(Presence, delivery.head, HEAD_LIMIT)
        except (FederationError, ParcelError) as error:  # of this one attempt, which says nothing of the next
            _, last = self._failed.get(node, (0.0, AGAIN[0] / 2))
            pause = min(2 * last, AGAIN[1])
            self._failed[node] = time.monotonic() + pause, pause
            LOG.warning("node %d is left out, and asked again in %g seconds: %s", node, pause, one_line(error))
            return True
        self._failed.pop(node, None)
        self._seat(node, who)
        return True

    def _seat(self, node: int, who: Presence) -> None:
        """Take a client in, or leave it out, and its node is not asked again while it stays."""
        try:
            _check(who)
            if not self._wants(who.client):
                raise FederationError(f"{who.client!r} is not a client of this run")
        except FederationError as error:
            LOG.warning("node %d is left out: %s", node, one_line(error))
            self._nodes[node] = ""
            return
        if self._is_seated(who.client):
            LOG.warning("node %d is left out while %s is at another node already", node, who.client)
            self._rivals[node] = who.client
            return
        self._nodes[node] = who.client
        self.present[who.client] = who

    def _is_seated(self, client: str) -> bool:
        return client in self._nodes.values()

    def _wants(self, client: str) -> bool:
        return self.wanted is None or client in self.wanted

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


def _check(who: Presence) -> None:
    """Raise FederationError unless this may be a client, and one that can take part."""
    if not NAME.fullmatch(who.client):
        raise FederationError(
            f"{who.client[:70]!r} cannot be the name of a client: choose at most 64 letters, digits, dots, hyphens and "
            f"underscores, of which the first is a letter or a digit"
        )
    if who.problem:
        raise FederationError(f"{who.client} cannot take part: {who.problem}")
    if not (1 <= who.train <= MOST_EXAMPLES and 1 <= who.test <= MOST_EXAMPLES):
        raise FederationError(
            f"{who.client} has {who.train} examples for training and {who.test} for testing: give it at least one of each"
        )
    if not who.model.isprintable():
        raise FederationError(f"{who.client}: the name of its network, {who.model[:60]!r}, is none")
