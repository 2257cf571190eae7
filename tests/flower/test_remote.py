"""The engine of remote clients over a mailbox in this process: the same numbers, and what may go wrong on the way."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from flower.postbox import Postbox, engine_of, experiment_of
from methods import METHODS, suited
from toy import make_cohort

from pfedhr.algorithm import Algorithm
from pfedhr.algorithms.fedavg import FedAvg
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.uploads import Upload
from pfedhr.experiment_file import dump
from pfedhr.federate import RoundResult, Schedule, federate
from pfedhr.flower.errands import Answer, Errand, ErrandError, RollCall, States
from pfedhr.flower.mailbox import Delivery, FederationError, Letter
from pfedhr.flower.roster import Roster
from pfedhr.in_process import Cohort, InProcess, MemoryStore, Workers
from pfedhr.parcel import pack, unpack

WIDE = make_cohort("cnn1", "mlp")


def run(
    cohort: Cohort, postbox: Postbox, folder: Path, algorithm: Algorithm, schedule: Schedule, **engine: float
) -> tuple[list[RoundResult], dict[str, bytes | None]]:
    experiment = experiment_of(algorithm, cohort, **engine)
    remote, _ = engine_of(experiment, cohort, postbox, folder)
    results = list(federate(algorithm, remote, remote.server_view, remote.clients, schedule, cohort.seed))
    return results, {client: remote.state(client) for client in remote.clients}


def rounds_alone(postbox: Postbox, folder: Path, count: int, **engine: float) -> Iterator[RoundResult]:
    """The rounds of four clients that learn alone, one at a time; the clients have been called once."""
    remote, _ = engine_of(experiment_of(Local(), WIDE, **engine), WIDE, postbox, folder)
    return federate(Local(), remote, remote.server_view, remote.clients, Schedule(count, 4), 0)


def in_process(cohort: Cohort, algorithm: Algorithm, schedule: Schedule) -> tuple[list[RoundResult], dict[str, bytes | None]]:
    engine = InProcess(algorithm, Workers(cohort))
    results = list(federate(algorithm, engine, engine.server_view, engine.clients, schedule, cohort.seed))
    return results, {client: engine.state(client) for client in engine.clients}


@pytest.mark.parametrize("algorithm", METHODS)
def test_every_method_gives_the_same_bit_for_bit(algorithm: Algorithm, tmp_path: Path) -> None:
    cohort = suited(algorithm, "cnn1", "mlp", clients=3)
    schedule = Schedule(3, 2)
    results, states = run(cohort, Postbox(cohort, tmp_path), tmp_path, algorithm, schedule)
    expected, kept = in_process(cohort, algorithm, schedule)
    assert states == kept
    for one, other in zip(results, expected, strict=True):
        assert one.scores == other.scores
        assert one.progress.server == other.progress.server
        assert (one.bytes_up, one.bytes_down) == (other.bytes_up, other.bytes_down)


def lost(client: str, round: int, postbox: Postbox, how: str) -> None:
    """Let the answer of `client` in `round` be lost, once."""
    seen: list[str] = []

    def tamper(letter: Letter, delivery: Delivery) -> Delivery | None:
        if letter.kind == "errand":
            errand = unpack(Errand, letter.head)
            if (errand.client, errand.round) == (client, round) and not seen:
                seen.append(how)
                return None if how == "late" else spoilt(delivery, how)
        return delivery

    postbox.tamper = tamper


def spoilt(delivery: Delivery, how: str) -> Delivery:
    answer = unpack(Answer, delivery.head)
    if how == "useless beside":
        return dataclasses.replace(delivery, body=useless(delivery.body))
    return {
        "raises": Delivery(delivery.letter, delivery.node, failure="error 2: ValueError"),
        "garbage": dataclasses.replace(delivery, head=b"garbage"),
        "garbage beside": dataclasses.replace(delivery, body=b"garbage"),
        "nothing beside": dataclasses.replace(delivery, body=None),
        "no scores": dataclasses.replace(delivery, head=pack(dataclasses.replace(answer, scores=None))),
        "as another": dataclasses.replace(delivery, head=pack(dataclasses.replace(answer, client="client00"))),
        "of another round": dataclasses.replace(delivery, head=pack(dataclasses.replace(answer, round=7))),
        "from another node": dataclasses.replace(delivery, node=100),
        "metrics": dataclasses.replace(delivery, head=pack(dataclasses.replace(answer, metrics="[]"))),
        "times": dataclasses.replace(delivery, head=pack(dataclasses.replace(answer, metrics='{"train_seconds": "x"}'))),
        "no json": dataclasses.replace(delivery, head=pack(dataclasses.replace(answer, metrics="{"))),
        "long": dataclasses.replace(delivery, head=pack(dataclasses.replace(answer, metrics=json.dumps({"a": "x" * 2**16})))),
    }[how]


def useless(upload: bytes | None) -> bytes:
    sent = unpack(Upload, upload or b"")
    return pack(dataclasses.replace(sent, weights={name: value * math.nan for name, value in sent.weights.items()}))


FAULTS = [
    *("late", "raises", "garbage", "garbage beside", "nothing beside", "no scores", "as another"),
    *("useless beside", "of another round", "from another node", "metrics", "times", "no json", "long"),
]


class Deaf(InProcess):
    """The in-process engine without the report of one client in one round, whose state stays as it was."""

    def exchange(self, outbox, admit):
        if all(order.round == 2 for order in outbox.values()):
            outbox = {client: order for client, order in outbox.items() if client != "client01"}
        return super().exchange(outbox, admit)


@pytest.mark.parametrize("how", FAULTS)
def test_an_answer_that_is_lost_or_refused_is_as_if_the_client_had_not_been_asked(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    postbox, schedule = Postbox(WIDE, tmp_path), Schedule(3, 4)
    algorithm = PFedHR.paper(groups=3, candidates=2, tuning_epochs=1)
    lost("client01", 2, postbox, how)
    with caplog.at_level(logging.WARNING):
        results, states = run(WIDE, postbox, tmp_path, algorithm, schedule)
    assert "client01" in caplog.text
    assert ("has not answered" if how == "late" else "is refused") in caplog.text
    assert "client01" not in results[1].clients
    assert results[2].clients.keys() == {"client00", "client01", "client02", "client03"}
    # The client did train in round 2, and does so from round 1's state again in round 3.
    assert [errand.since for errand in postbox.errands() if errand.client == "client01" and errand.step] == [0, 1, 1]
    engine = Deaf(algorithm, Workers(WIDE))
    expected = list(federate(algorithm, engine, engine.server_view, engine.clients, schedule, 0))
    assert [result.progress.server for result in results] == [result.progress.server for result in expected]
    assert states == {client: engine.state(client) for client in engine.clients}


def test_a_late_answer_of_a_round_before_is_not_taken_for_this_one(tmp_path: Path) -> None:
    postbox = Postbox(WIDE, tmp_path)
    held: list[Delivery] = []

    def tamper(letter: Letter, delivery: Delivery) -> Delivery | None:
        if letter.kind == "errand" and unpack(Errand, letter.head).client == "client01":
            held.append(delivery)
            return None if len(held) == 1 else dataclasses.replace(held[0], letter=delivery.letter)
        return delivery

    postbox.tamper = tamper
    results, _ = run(WIDE, postbox, tmp_path, Local(), Schedule(2, 4))
    assert all("client01" not in result.clients for result in results)


def test_nobody_waits_for_a_client_that_is_away_and_it_is_taken_back(tmp_path: Path) -> None:
    postbox = Postbox(WIDE, tmp_path)
    rounds = rounds_alone(postbox, tmp_path, 3, round_timeout=60.0)
    assert len(next(rounds).clients) == 4
    postbox.online.remove(101)
    assert next(rounds).clients.keys() == {"client00", "client02", "client03"}
    postbox.participants[205] = postbox.participants.pop(101)  # back under another number
    postbox.online.add(205)
    assert len(next(rounds).clients) == 4
    assert [errand.since for errand in postbox.errands() if errand.client == "client01"] == [0, 1]


def test_a_round_with_too_few_replies_is_tried_again_with_those_who_are_missing(tmp_path: Path) -> None:
    postbox = Postbox(WIDE, tmp_path)
    lost("client01", 2, postbox, "raises")
    results, states = run(WIDE, postbox, tmp_path, Local(), Schedule(2, 4), min_clients=4, retries=1)
    assert len(results[1].clients) == 4
    assert sum(errand.round == 2 for errand in postbox.errands()) == 5  # the other three were asked once
    assert states == in_process(WIDE, Local(), Schedule(2, 4))[1]


def test_a_second_attempt_waits_for_no_more_than_are_missing(tmp_path: Path) -> None:
    postbox = Postbox(WIDE, tmp_path)
    rounds = rounds_alone(postbox, tmp_path, 1, min_clients=3, retries=1, round_timeout=3.0)
    postbox.online.remove(103)
    lost("client01", 1, postbox, "raises")
    (result,) = rounds
    assert result.clients.keys() == {"client00", "client01", "client02"}
    assert 3.0 < result.seconds < 6.0  # the first attempt waits for whoever may yet come, to its end; the second does not


def test_a_run_stops_where_too_few_reply_and_can_go_on(tmp_path: Path) -> None:
    postbox, store = Postbox(WIDE, tmp_path), MemoryStore()
    experiment = experiment_of(Local(), WIDE, min_clients=4, retries=1)
    remote, _ = engine_of(experiment, WIDE, postbox, tmp_path, store)
    rounds = federate(Local(), remote, remote.server_view, remote.clients, Schedule(2, 4), 0)
    first = next(rounds)
    postbox.online.remove(102)
    with pytest.raises(FederationError, match=r"engine.min_clients = 4 .* 2 attempts: go on .* --engine flower"):
        next(rounds)
    postbox.online.add(102)
    again, _ = engine_of(experiment, WIDE, postbox, tmp_path, store)
    (second,) = federate(Local(), again, again.server_view, again.clients, Schedule(2, 4), 0, first.progress)
    expected, kept = in_process(WIDE, Local(), Schedule(2, 4))
    assert second.scores == expected[1].scores
    assert {client: again.state(client) for client in again.clients} == kept


def test_a_client_says_that_it_cannot_take_part(tmp_path: Path) -> None:
    postbox = Postbox(WIDE, tmp_path)
    experiment = experiment_of(FedAvg(), WIDE)
    postbox.participants[101] = dataclasses.replace(
        postbox.participants[101], network=dataclasses.replace(WIDE.networks["client01"], factory="absent:network")
    )
    roster = Roster(postbox, dump(experiment))
    with pytest.raises(FederationError, match="3 of 4"):
        roster.gather(4, 0.1)


def test_a_client_keeps_two_states_and_goes_on_from_what_it_has(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    states = States(tmp_path)
    states.save(1, pack(RollCall("one")), 0)
    states.save(2, pack(RollCall("two")), 1)
    states.save(2, pack(RollCall("two again")), 1)
    states.save(5, pack(RollCall("five")), 2)
    states.save(4, pack(RollCall("too late")), 1)
    (tmp_path / "4.parcel").unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.parcel", "5.parcel"]
    assert (states.load(0), states.load(2), states.load(5)) == (None, pack(RollCall("two again")), pack(RollCall("five")))
    assert caplog.text == ""
    (tmp_path / "5.parcel").unlink()
    assert states.load(5) == pack(RollCall("two again"))
    assert "going on from round 2" in caplog.text
    (tmp_path / "2.parcel").unlink()
    assert states.load(2) is None


def test_a_damaged_state_is_named_by_its_file(tmp_path: Path) -> None:
    states = States(tmp_path)
    states.save(1, b"\0" * 50, 0)
    with pytest.raises(ErrandError, match=r"1\.parcel is damaged .*delete it"):
        states.load(1)
