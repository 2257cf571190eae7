"""Flower's side of it, and the only file that imports flwr: letters as messages on its Grid, and its two apps.

Parcels travel as arrays of bytes, which Flower cuts into chunks, so that neither dtype nor size matters to it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Mapping, Sequence

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from google.protobuf.message import DecodeError

from pfedhr.flower.errands import Errand, Participant, RollCall, perform, present
from pfedhr.flower.mailbox import Delivery, Letter, Mailbox
from pfedhr.flower.simulation import simulated_client, simulated_server
from pfedhr.parcel import pack, unpack

Config = Mapping[str, bool | int | float | str]
"""What a run, or a node, was started with."""
_ILL_MADE = (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, DecodeError)
"""What Flower raises where a node has made its message itself, so that its parts do not fit; not what the network raises."""
_TYPES = {"roll call": "query", "errand": "train"}


class GridMailbox:
    """Letters as messages on Flower's Grid."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._nodes: dict[str, int] = {}

    def nodes(self) -> Collection[int]:
        """Return the nodes that Flower counts as online."""
        return list(self._grid.get_node_ids())

    def send(self, letters: Sequence[Letter]) -> list[str | None]:
        """Push each letter as a message of its own, and return their numbers."""
        messages = [Message(contents(letter.head, letter.body), letter.node, _TYPES[letter.kind]) for letter in letters]
        numbers: list[str | None] = list(self._grid.push_messages(messages)) if messages else []
        if len(numbers) != len(letters):  # Flower gives none back where the whole push was too large
            return [None] * len(letters)
        self._nodes |= {number: letter.node for number, letter in zip(numbers, letters, strict=True) if number}
        return numbers

    def collect(self, letters: Collection[str]) -> list[Delivery]:
        """Pull what has come for these letters."""
        found: list[Delivery] = []
        for letter in letters:
            try:  # one at a time: what Flower raises of one node's message would take all others along
                messages = list(self._grid.pull_messages([letter]))
            except _ILL_MADE as error:
                failure = f"a message that Flower cannot read: {type(error).__name__}: {error}"
                found.append(Delivery(letter, self._nodes.pop(letter, 0), failure=failure))
                continue
            found += [self._delivery(letter, message) for message in messages]
        return found

    def _delivery(self, letter: str, message: Message) -> Delivery:
        node = self._nodes.pop(letter, 0)
        if message.has_error():  # it may come from the SuperLink in the node's place
            reason = f"error {message.error.code}: {(message.error.reason or '').strip()[-2000:]}"
            return Delivery(letter, node, failure=reason)
        try:
            head, body = parcels(message.content)
        except (KeyError, TypeError, ValueError) as error:
            return Delivery(letter, node, failure=f"content that is not ours: {type(error).__name__}: {error}")
        return Delivery(letter, message.metadata.src_node_id, head, body)


def server_app(serve: Callable[[Mailbox, Config], None]) -> ServerApp:
    """Return a ServerApp that calls `serve` with a mailbox and what the run was started with."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:  # pyright: ignore[reportUnusedFunction]
        _speak()
        serve(GridMailbox(grid), context.run_config)

    return app


def client_app(load: Callable[[Config, Config], Participant]) -> ClientApp:
    """Return a ClientApp that is the participant that `load` gives for what the run and the node were started with."""
    app = ClientApp()

    @app.query()
    def roll_call(message: Message, context: Context) -> Message:  # pyright: ignore[reportUnusedFunction]
        head, _ = parcels(message.content)
        presence = present(load(context.run_config, context.node_config), unpack(RollCall, head))
        return Message(contents(pack(presence), None), reply_to=message)

    @app.train()
    def errand(message: Message, context: Context) -> Message:  # pyright: ignore[reportUnusedFunction]
        head, body = parcels(message.content)
        answer, reply = perform(load(context.run_config, context.node_config), unpack(Errand, head), body)
        return Message(contents(pack(answer), reply), reply_to=message)

    return app


def _speak() -> None:
    """Let what this package logs be seen in `flwr run --stream`, once."""
    log = logging.getLogger("pfedhr")
    if not log.handlers:
        log.setLevel(logging.INFO)
        log.addHandler(logging.StreamHandler(sys.stdout))


def contents(head: bytes, body: bytes | None) -> RecordDict:
    """Return what a message holds: two parcels."""
    arrays = {"head": _array(head)} | ({} if body is None else {"body": _array(body)})
    return RecordDict({"parcels": ArrayRecord(arrays)})


def _array(data: bytes) -> Array:
    return Array(dtype="uint8", shape=(len(data),), stype="parcel", data=data)


def parcels(content: RecordDict) -> tuple[bytes, bytes | None]:
    """Return the two parcels that a message holds. Raises KeyError or TypeError if it holds something else."""
    record = content["parcels"]
    if not isinstance(record, ArrayRecord):
        raise TypeError(f"a {type(record).__name__} where parcels were expected")
    return record["head"].data, record["body"].data if "body" in record else None


simulation_server = server_app(simulated_server)
simulation_client = client_app(simulated_client)
