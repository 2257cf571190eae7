"""A deployment's server among clients that say nothing, are too many, or never succeed."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest
from flower.postbox import Postbox
from test_hostile import COHORT, server_of, simulate

from pfedhr.flower.mailbox import Delivery, Letter
from pfedhr.flower.serving import CLIENTS
from pfedhr.run import RunError, read_outcomes


def silent(postbox: Postbox, node: int) -> None:
    """Let a node stay online and never answer."""
    postbox.tamper = lambda letter, delivery: None if letter.node == node else delivery


def test_nobody_waits_for_a_node_that_never_says_who_it_is(tmp_path: Path) -> None:
    postbox = Postbox(COHORT, tmp_path / "nodes")
    silent(postbox, 101)
    start = time.monotonic()
    assert [one.client for one in server_of(postbox, tmp_path, 2, round_timeout=60.0)] == ["client00", "client02"]
    assert time.monotonic() - start < 30


def test_more_clients_than_are_wanted_are_left_out_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    postbox = Postbox(COHORT, tmp_path / "nodes")
    postbox.participants = dict(reversed(postbox.participants.items()))
    with caplog.at_level(logging.WARNING):
        assert [one.client for one in server_of(postbox, tmp_path, 2)] == ["client00", "client01"]
    assert [one["client"] for one in json.loads((tmp_path / "runs" / CLIENTS).read_text())] == ["client00", "client01"]
    assert "client02 has come, too, and is left out: clients.count = 2" in caplog.text
    assert all(errand.client != "client02" for errand in postbox.errands())


def fails(postbox: Postbox, *nodes: int) -> None:
    """Let the clients at these nodes fail whatever they are asked for."""

    def tamper(letter: Letter, delivery: Delivery) -> Delivery:
        failed = letter.kind == "errand" and letter.node in nodes
        return Delivery(delivery.letter, delivery.node, failure="error 2: TrainingError") if failed else delivery

    postbox.tamper = tamper


def test_a_simulation_ends_though_a_client_never_succeeds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    postbox = Postbox(COHORT, tmp_path / "nodes")
    fails(postbox, 101)
    for _ in range(2):  # taken up again, it ends the same way
        ended = simulate(postbox, tmp_path)
        assert [one.client for one in ended] == ["client00", "client02"]
        assert read_outcomes(tmp_path / "run") == ended
    assert "client client01 was never evaluated: clients.csv has no row of it" in caplog.text
    assert len(list((tmp_path / "run" / "models").iterdir())) == 3  # its network is the one that it began with


def test_a_run_without_any_results_says_so(tmp_path: Path) -> None:
    postbox = Postbox(COHORT, tmp_path / "nodes")
    fails(postbox, 100, 101, 102)
    with pytest.raises(RunError, match=r"no client in .* was ever evaluated.*engine.min_clients"):
        simulate(postbox, tmp_path, min_clients=0)
    assert not (tmp_path / "run" / "clients.csv").exists()
