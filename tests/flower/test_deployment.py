"""Real Flower processes of this machine: TLS, node keys, and machines that die. Run them with `make test-flower`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment.folders import make_certificates, make_node_key
from deployment.machines import Node
from flower.deployed import Deployment, deployment, kill, numbers, rounds, running, without_network

from pfedhr.flower.processes import free_port
from pfedhr.run import read_outcomes, read_rounds

pytestmark = [pytest.mark.flower, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployment(tmp_path_factory.mktemp("deployment") / "place") as started:
        yield started
    assert not [number for node in started.nodes.values() for number in node.family.members()]
    assert not list(started.server.family.members())


def test_a_killed_node_is_left_out_and_taken_back(deployed: Deployment) -> None:
    """A SuperNode and its children die at work: the round ends with the others, and the hospital learns again once it is back.

    For a minute Flower refuses it (exit code 305), until which it is started over and over. If it is taken back before the
    server has looked whether it was away, nobody says that its order died with it, and the round lasts as long as it may.
    """
    limit = 120.0
    results = deployed.results("killed-node", rounds=12, min_clients=2, round_timeout=limit)
    run, hospital = deployed.operator.run(results.parent), deployed.nodes["hospital"]
    deployed.wait(lambda: rounds(results) >= 1, "end of round 1", 150)
    done = set(running(hospital.family.members(), "flwr-clientapp"))  # the work of a round that is over may be about to end
    deployed.wait(lambda: bool(set(running(hospital.family.members(), "flwr-clientapp")) - done), "work in a round", 100)
    before = rounds(results)
    hospital.family.kill()
    deployed.wait(lambda: rounds(results) > before, "end of the round", limit + 60)
    deployed.wait(lambda: "hospital" in read_rounds(results)[-1]["losses"], "round with it again", 200)
    took_part = [sorted(one["losses"]) for one in read_rounds(results)]
    assert took_part[0] == took_part[-1] == ["bank", "factory", "hospital"]
    assert ["bank", "factory"] in took_part
    assert all({"bank", "factory"} <= set(names) for names in took_part)
    assert all(one["active"] == ["bank", "factory", "hospital"] for one in read_rounds(results))
    assert "going on from round" not in hospital.log.read_text()  # as it says if its state is not where it should be
    kill(running(deployed.server.family.members(), "flwr-serverapp"))
    run.kill()


def test_five_rounds_have_the_numbers_of_a_run_without_network(deployed: Deployment) -> None:
    """Three networks that the server has no code of: the rounds of one process, bit for bit, and states that stay at home."""
    results = deployed.results("five-rounds", rounds=5, min_clients=3)
    deployed.run_to_end(results, 400)
    assert numbers(read_rounds(results)) == numbers(without_network(deployed, results))
    ended = {one.client: one for one in read_outcomes(results)}
    assert list(ended) == ["bank", "factory", "hospital"]
    assert len({one.parameters for one in ended.values()}) == 3
    run = (results / "flower-run").read_text()
    for node in deployed.nodes.values():
        assert (node.home / "states" / run / "5.parcel").exists()
    for home in (deployed.server.home, deployed.operator.home, results):
        assert not list(home.rglob("model.py"))
        held = [file.name for file in home.rglob("*.safetensors")]
        assert held == (["public.safetensors"] if home == deployed.server.home else [])
    for number in running(deployed.server.family.members(), "flower-superlink"):
        assert b"/clients/" not in Path(f"/proc/{number}/environ").read_bytes()


def test_a_run_outlives_its_server_app_and_its_superlink(deployed: Deployment) -> None:
    """The ServerApp dies in round 2 and the SuperLink's machine in round 3: `flwr run` again goes on, and no number differs."""
    results = deployed.results("killed-server", rounds=4, min_clients=3)
    server = deployed.server
    first = deployed.operator.run(results.parent)
    deployed.wait(lambda: rounds(results) >= 1, "round 1", 150)
    kill(running(server.family.members(), "flwr-serverapp"))
    second = deployed.operator.run(results.parent)
    deployed.wait(lambda: rounds(results) >= 2, "round 2", 200)
    server.family.kill()
    server.start()
    deployed.run_to_end(results, 300)
    assert [one["round"] for one in read_rounds(results)] == [1, 2, 3, 4]
    assert numbers(read_rounds(results)) == numbers(without_network(deployed, results))
    for run in (first, second):
        deployed.wait(lambda run=run: run.poll() is not None, "end of a command whose run had failed", 120)


def test_strangers_are_turned_away(deployed: Deployment) -> None:
    """A node that trusts another authority finds no server, and one whose key is not registered is refused."""
    for name in ("elsewhere", "stranger"):
        home = deployed.place / "clients" / name
        shutil.copytree(deployed.nodes["bank"].home, home, ignore=shutil.ignore_patterns("states", "flower*", "key*"))
        make_node_key(home / "key")
    deployed.operator.register(deployed.place / "clients" / "elsewhere" / "key.pub")
    make_certificates(deployed.place / "other")
    shutil.copy(deployed.place / "other" / "ca.crt", deployed.place / "clients" / "elsewhere")
    for name, reason in (("elsewhere", "CERTIFICATE_VERIFY_FAILED"), ("stranger", "Failed to activate SuperNode")):
        with Node(deployed.place / "clients" / name, deployed.server, free_port()) as node:
            node.keep()
            deployed.wait(lambda node=node: node.process.poll() is not None, f"end of {name}", 60)
            assert reason in node.log.read_text()
            assert "SuperNode ID" not in node.log.read_text()
