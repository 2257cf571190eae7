"""The engine of clients in other processes: orders and reports in letters, and what may go wrong on the way.

A client whose answer does not come, is an error, or is refused is left as it was, and the round closes without it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pfedhr.algorithm import ServerView
from pfedhr.experiment import Experiment
from pfedhr.experiment_file import dump
from pfedhr.flower.errands import HEAD_LIMIT, Answer, Errand
from pfedhr.flower.mailbox import PAUSES, Delivery, FederationError, Letter, Mailbox, wait
from pfedhr.flower.roster import Roster
from pfedhr.in_process import Store
from pfedhr.parcel import ParcelError, pack, unpack
from pfedhr.transport import LOG, Admit, Order, Report, one_line


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

    def exchange(self, outbox: Mapping[str, Order], admit: Admit) -> dict[str, Report]:
        """Return the reports that came and were taken, in the order of the outbox.

        A round with fewer replies than engine.min_clients is tried again, as often as engine.retries says. Raises
        FederationError if there are still too few.
        """
        options = self._experiment.engine
        asked = sum(order.message is not None for order in outbox.values())
        fewest = min(options.min_clients, asked)
        reports, replies = dict[str, Report](), 0
        for attempt in range(options.retries + 1):
            missing = {client: order for client, order in outbox.items() if client not in reports}
            reports |= self._ask(missing, fewest - replies)
            replied = {client: report.reply for client, report in reports.items() if report.reply is not None}
            refused = admit(replied)
            reports = {client: report for client, report in reports.items() if client not in refused}
            if (replies := len(replied) - len(refused)) >= fewest:
                self._note(reports, outbox)
                return {client: reports[client] for client in outbox if client in reports}
            LOG.warning("%d of %d clients replied, at least %d were wanted: attempt %d", replies, asked, fewest, attempt + 1)
        raise FederationError(
            f"fewer than engine.min_clients = {fewest} clients replied in {options.retries + 1} attempts: go on with "
            f"`pfedhr run --resume DIR --engine flower` or the same app once they are back"
        )

    def _ask(self, orders: Mapping[str, Order], fewest: int) -> dict[str, Report]:
        """Send orders to clients as they can be reached, and return the reports that come before the round's time is over.

        Nobody waits for clients that cannot be reached, unless fewer than `fewest` have replied, or a node has yet to say
        whether it is one of them. A node that has not said so for as long as a round may last is not waited for again.
        """
        seconds = self._experiment.engine.round_timeout
        deadline, pause = time.monotonic() + seconds, PAUSES[0]
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
            if not sent and (not unsent or (enough and not news and not self._roster.expects(seconds))):
                break
            if not news and time.monotonic() > deadline:
                break
            pause = PAUSES[0] if news else wait(pause)
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
            answer = unpack(Answer, delivery.head, HEAD_LIMIT)
            if (answer.client, answer.round, delivery.node) != (client, order.round, node):
                raise FederationError(f"it answers as {answer.client[:60]!r} in round {answer.round}")
            if (delivery.body is None) is not (order.message is None) or (answer.scores is None) is order.evaluate:
                raise FederationError("its answer lacks what was asked for, or holds more")
            report = answer.report(delivery.body)
        except (FederationError, ParcelError, ValueError) as error:
            LOG.warning("the answer of client %s in round %d is refused: %s", client, order.round, one_line(error))
            return None
        return report
