"""The engine of clients in other processes: letters to nodes and back, whatever carries them, and what may go wrong on the way.

A client whose answer does not come, is an error, or is refused is left as it was, and the round closes without it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pfedhr.algorithm import ServerView
from pfedhr.errors import PfedhrError
from pfedhr.experiment import Experiment
from pfedhr.experiment_file import dump
from pfedhr.flower.errands import Answer, Errand, Presence, RollCall
from pfedhr.in_process import Store
from pfedhr.parcel import ParcelError, pack, unpack
from pfedhr.transport import Order, Report

LOG = logging.getLogger("pfedhr")
PAUSES = 0.02, 0.5
"""Seconds between two looks for answers: the first, and the longest that it grows to."""


class FederationError(PfedhrError):
    """Too few clients came or answered; the message says how to go on."""


@dataclass(frozen=True)
class Letter:
    """What goes to a node: a parcel `head`, and beside it what the method sends, if anything."""

    node: int
    kind: Literal["roll call", "errand"]
    head: bytes
    body: bytes | None = None


@dataclass(frozen=True)
class Delivery:
    """What came back from `node` for the letter of this number; `failure` says what went wrong, if anything."""

    letter: str
    node: int
    head: bytes = b""
    body: bytes | None = None
    failure: str = ""


class Mailbox(Protocol):
    """Carries letters to nodes and their answers back."""

    def nodes(self) -> Collection[int]:
        """Return the nodes that can be reached now."""
        ...

    def send(self, letters: Sequence[Letter]) -> list[str | None]:
        """Send letters; return a number for each, or None for one that could not be sent."""
        ...

    def collect(self, letters: Collection[str]) -> list[Delivery]:
        """Return what has come for these letters, each thing once."""
        ...


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
            pause = PAUSES[0] if news else _wait(pause)
        return sorted(there)


@dataclass(frozen=True)
class Receipt:
    """The round of the last answer of a client that the server took."""

    round: int


class Remote:
    """The engine over a mailbox. `store` keeps the clients' receipts; `run` names the run to clients.

    `server_view` and `states`, which is given a client and a round, serve the rest of what an engine has to know.
    """

    def __init__(
        self,
        experiment: Experiment,
        run: str,
        mailbox: Mailbox,
        roster: Roster,
        clients: Sequence[str],
        store: Store,
        server_view: Callable[[int], ServerView],
        states: Callable[[str, int], bytes | None] = lambda client, round: None,
    ) -> None:
        self.clients = clients
        self._experiment, self._text, self._run = experiment, dump(experiment), run
        self._mailbox, self._roster, self._store, self._states = mailbox, roster, store, states
        self._view = server_view

    def server_view(self, round: int) -> ServerView:
        """Return what the server may see in `round`."""
        return self._view(round)

    def state(self, client: str) -> bytes | None:
        """Return the client's state as the run counts it, where the server can see it."""
        return self._states(client, self._since(client))

    def exchange(self, outbox: Mapping[str, Order]) -> dict[str, Report]:
        """Return the reports that came and were taken, in the order of the outbox.

        A round with fewer replies than engine.min_clients is tried again, as often as engine.retries says. Raises
        FederationError if there are still too few.
        """
        options = self._experiment.engine
        asked = sum(order.message is not None for order in outbox.values())
        fewest = min(options.min_clients, asked)
        reports: dict[str, Report] = {}
        for attempt in range(options.retries + 1):
            reports |= self._ask({client: order for client, order in outbox.items() if client not in reports}, fewest)
            if (replies := sum(report.reply is not None for report in reports.values())) >= fewest:
                self._note(reports, outbox)
                return {client: reports[client] for client in outbox if client in reports}
            LOG.warning("%d of %d clients replied, at least %d were wanted: attempt %d", replies, asked, fewest, attempt + 1)
        raise FederationError(
            f"fewer than engine.min_clients = {fewest} clients replied in {options.retries + 1} attempts: go on with "
            f"`pfedhr run --resume` or the same app once they are back"
        )

    def _ask(self, orders: Mapping[str, Order], fewest: int) -> dict[str, Report]:
        """Send orders to clients as they can be reached, and return the reports that come before the round's time is over.

        Nobody waits for clients that cannot be reached, unless fewer than `fewest` have replied.
        """
        deadline, pause = time.monotonic() + self._experiment.engine.round_timeout, PAUSES[0]
        unsent, sent, reports = dict(orders), dict[str, tuple[str, int]](), dict[str, Report]()
        while True:
            sent |= self._send(unsent)
            news = self._mailbox.collect([*sent, *self._roster.asked])
            for delivery in news:
                if not self._roster.take(delivery) and delivery.letter in sent:
                    client, node = sent.pop(delivery.letter)
                    if report := self._open(delivery, client, node, orders[client]):
                        reports[client] = report
            enough = sum(report.reply is not None for report in reports.values()) >= fewest
            if not sent and not self._roster.asked and (not unsent or (enough and not news)):
                break
            if not news and time.monotonic() > deadline:
                break
            pause = PAUSES[0] if news else _wait(pause)
        for client in [*unsent, *(client for client, _ in sent.values())]:
            LOG.warning("client %s has not answered", client)
        return reports

    def _send(self, unsent: dict[str, Order]) -> dict[str, tuple[str, int]]:
        """Send what can be sent, take it out of `unsent`, and return client and node by the letters' numbers."""
        nodes = self._roster.call()
        ready = [client for client in unsent if client in nodes]
        letters = [self._letter(client, unsent[client], nodes[client]) for client in ready]
        sent: dict[str, tuple[str, int]] = {}
        for client, number in zip(ready, self._mailbox.send(letters), strict=True):
            if number:
                sent[number] = client, nodes[client]
                del unsent[client]
        return sent

    def _letter(self, client: str, order: Order, node: int) -> Letter:
        step, since = order.message is not None, self._since(client)
        errand = Errand(self._run, self._text, client, order.round, since, step, order.evaluate)
        return Letter(node, "errand", pack(errand), order.message)

    def _since(self, client: str) -> int:
        receipt = self._store.load(client)
        return 0 if receipt is None else unpack(Receipt, receipt).round

    def _note(self, reports: Mapping[str, Report], outbox: Mapping[str, Order]) -> None:
        """Keep receipts of the replies of a round that can end; of one that cannot, nothing shall count."""
        for client, report in reports.items():
            if report.reply is not None:
                self._store.save(client, pack(Receipt(outbox[client].round)))

    def _open(self, delivery: Delivery, client: str, node: int, order: Order) -> Report | None:
        """Return the report in a delivery; None, and a warning, if it is none."""
        try:
            if delivery.failure:
                raise FederationError(delivery.failure)
            answer = unpack(Answer, delivery.head)
            if (answer.client, answer.round, delivery.node) != (client, order.round, node):
                raise FederationError(f"it answers as {answer.client[:60]!r} in round {answer.round}")
            if (delivery.body is None) is not (order.message is None) or (answer.scores is None) is order.evaluate:
                raise FederationError("its answer lacks what was asked for, or holds more")
            if delivery.body is not None:
                unpack(self._experiment.algorithm.reply_type, delivery.body)
            report = answer.report(delivery.body)
        except (FederationError, ParcelError, ValueError) as error:
            LOG.warning("the answer of client %s in round %d is refused: %s", client, order.round, error)
            return None
        return report


def _wait(pause: float) -> float:
    """Sleep, and return how long to sleep the next time."""
    time.sleep(pause)
    return min(2 * pause, PAUSES[1])
