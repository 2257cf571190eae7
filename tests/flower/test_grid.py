"""The mailbox on Flower's Grid, whose messages come from nodes that may make them as they like."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

pytest.importorskip("flwr")
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import DecodeError

from pfedhr.flower.grid import GridMailbox, contents
from pfedhr.flower.mailbox import Delivery, Letter


class Grid:
    """Flower's Grid as it takes messages from the SuperLink: each is gone there once it was pulled, whatever comes of it."""

    def __init__(self, **answers: Exception | Message) -> None:
        self.answers = answers

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return list(self.answers)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        pulled = [self.answers.pop(letter) for letter in message_ids if letter in self.answers]
        for one in pulled:
            if isinstance(one, Exception):
                raise one
        return pulled  # pyright: ignore[reportReturnType]


@pytest.fixture(autouse=True)
def task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let messages be made outside of a run."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def answer(head: bytes) -> Message:
    message = Message(contents(head, None), dst_node_id=1, message_type="train")
    message.metadata.__dict__["_src_node_id"] = 7
    return message


def mailbox(**answers: Exception | Message) -> GridMailbox:
    """A mailbox from which a letter has gone to node 100, 101 and so on for each of the answers."""
    grid: Any = Grid(**answers)
    box = GridMailbox(grid)
    assert box.send([Letter(100 + at, "errand", b"") for at, _ in enumerate(answers)]) == list(answers)
    return box


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "error",
    [IndexError("list index"), KeyError("x"), TypeError(), ValueError(), AttributeError(), RecursionError(), DecodeError("x")],
)
def test_a_message_that_flower_cannot_read_is_a_failure_of_its_node_alone(error: Exception) -> None:
    box = mailbox(one=answer(b"one"), ill=error, other=answer(b"other"), late=answer(b"late"))
    one, ill, other = box.collect(["one", "ill", "other"])
    assert (one, other) == (Delivery("one", 7, b"one"), Delivery("other", 7, b"other"))
    assert (ill.letter, ill.node) == ("ill", 101)
    assert f"a message that Flower cannot read: {type(error).__name__}" in ill.failure
    assert [delivery.head for delivery in box.collect(["late", "ill"])] == [b"late"]


def test_what_the_network_raises_is_no_nodes_failure() -> None:
    with pytest.raises(ConnectionError):
        mailbox(one=ConnectionError()).collect(["one"])
