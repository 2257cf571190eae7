"""Who takes part when nodes are away, never say who they are, or come back."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest
from flower.postbox import Postbox
from test_remote import WIDE, rounds_alone

from pfedhr.flower import roster
from pfedhr.flower.errands import Presence
from pfedhr.flower.mailbox import Delivery, FederationError, Letter
from pfedhr.flower.roster import Roster
from pfedhr.parcel import pack, unpack


def test_a_node_that_never_says_who_it_is_is_not_waited_for_again(tmp_path: Path) -> None:
    postbox = Postbox(WIDE, tmp_path)
    rounds = rounds_alone(postbox, tmp_path, 3, round_timeout=3.0)
    postbox.online.remove(101)  # its client may be who sits at the new node
    postbox.participants[205] = postbox.participants[101]
    postbox.online.add(205)
    postbox.tamper = lambda letter, delivery: None if letter.node == 205 else delivery
    results = list(rounds)
    assert all(result.clients.keys() == {"client00", "client02", "client03"} for result in results)
    assert results[0].seconds > 2.9
    assert all(result.seconds < 2.9 for result in results[1:])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"problem": "no features"}, "client01 cannot take part: no features"),
        ({"client": "client09"}, "'client09' is not a client of this run"),
        ({"client": "client00"}, "client00 is at another node already"),
    ],
)
def test_a_node_that_cannot_take_part_is_left_out_and_not_asked_again(
    change: dict[str, str], words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    postbox = Postbox(WIDE, tmp_path)

    def tamper(letter: Letter, delivery: Delivery) -> Delivery:
        if letter.node != 101:
            return delivery
        return dataclasses.replace(delivery, head=pack(dataclasses.replace(unpack(Presence, delivery.head), **change)))

    postbox.tamper = tamper
    roster = Roster(postbox)
    roster.wanted = frozenset(WIDE.networks)
    assert roster.gather(3, 1.0) == ["client00", "client02", "client03"]
    assert words in caplog.text
    with pytest.raises(FederationError, match=r"3 of 4 clients have come in 0.1 seconds: start the others"):
        roster.gather(4, 0.1)
    assert len(postbox.sent) == 4


@pytest.mark.parametrize(
    ("fault", "words"),
    [({"failure": "error 2: OutOfMemory", "head": b""}, "error 2: OutOfMemory"), ({"head": b"?"}, "not a parcel")],
)
def test_a_node_whose_roll_call_fails_is_asked_again_after_pauses_that_grow(
    fault: dict[str, Any], words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "AGAIN", (0.1, 0.2))
    postbox = Postbox(WIDE, tmp_path)
    times: list[float] = []

    def tamper(letter: Letter, delivery: Delivery) -> Delivery:
        if letter.node != 101:
            return delivery
        times.append(time.monotonic())
        return dataclasses.replace(delivery, **fault) if len(times) < 4 else delivery

    postbox.tamper = tamper
    assert Roster(postbox).gather(4, 20.0) == sorted(WIDE.networks)
    assert len(postbox.sent) == 7
    assert [later - earlier >= pause for earlier, later, pause in zip(times, times[1:], (0.1, 0.2, 0.2), strict=False)] == [
        True
    ] * 3
    assert words in caplog.text
    assert "asked again in 0.2 seconds" in caplog.text
    assert "0.4" not in caplog.text


def test_a_client_whose_roll_call_fails_in_a_run_is_back_in_a_later_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "AGAIN", (0.1, 0.2))
    postbox = Postbox(WIDE, tmp_path)
    rounds = rounds_alone(postbox, tmp_path, 4, round_timeout=60.0)
    assert len(next(rounds).clients) == 4
    postbox.online.remove(101)
    assert len(next(rounds).clients) == 3
    postbox.online.add(101)
    failed: list[Letter] = []

    def tamper(letter: Letter, delivery: Delivery) -> Delivery:
        if letter.node != 101 or letter.kind != "roll call" or failed:
            return delivery
        failed.append(letter)
        return Delivery(delivery.letter, 101, failure="error 2: OutOfMemory")

    postbox.tamper = tamper
    assert next(rounds).clients.keys() == {"client00", "client02", "client03"}
    time.sleep(0.1)
    assert len(next(rounds).clients) == 4


def test_a_client_that_is_back_while_its_old_node_counts_as_online_is_taken_back_once_that_is_gone(tmp_path: Path) -> None:
    postbox = Postbox(WIDE, tmp_path)
    rounds = rounds_alone(postbox, tmp_path, 4, round_timeout=0.5)
    assert len(next(rounds).clients) == 4
    postbox.participants[205] = postbox.participants[101]
    postbox.online.add(205)
    postbox.tamper = lambda letter, delivery: None if letter.node == 101 else delivery
    assert len(next(rounds).clients) == 3
    assert len(next(rounds).clients) == 3
    assert [letter.kind for letter in postbox.sent if letter.node == 205] == ["roll call"]
    postbox.online.remove(101)
    assert len(next(rounds).clients) == 4
