"""The changes that FedKD sends: compressed by the round's energy, and never taken twice."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_fedkd import MLP, beginning, step
from toy import equal, make_cohort

from pfedhr.algorithms.compression import Change, change_size, compress
from pfedhr.algorithms.fedkd import FedKD, Learnt, Mentee, News
from pfedhr.heads import head_name
from pfedhr.in_process import InProcess, Workers
from pfedhr.models import build
from pfedhr.parcel import ParcelError, pack


def test_parcels_are_smaller_than_the_mentee() -> None:
    cohort, method = make_cohort("cnn1", epochs=4), FedKD("mlp", 0.8, 0.8)
    server, states = beginning(cohort, method)
    view = cohort.client_view("client00", 1)
    _, reply, metrics = method.client_step(states["client00"], method.message(server, "client00"), view)
    whole = len(pack(News(server.weights, 0, ())))
    assert len(pack(reply)) < 0.6 * whole
    assert metrics["change_size_share"] < 0.6
    server = step(cohort, method, 1, server, states, "client00", "client01")
    assert len(pack(method.message(server, "client00"))) < 0.8 * whole


@pytest.mark.parametrize(
    ("energy", "expected"),
    [
        (0.5, [1, 2, 2, 3]),  # small changes: what each missed goes down
        (1.0, [1, 0, 0, 0]),  # changes as large as the mentee: whoever missed two gets it whole
    ],
)
def test_clients_hold_the_server_s_mentee_bit_for_bit_whatever_they_missed(energy: float, expected: list[int]) -> None:
    cohort, method = make_cohort("mlp", "cnn1"), FedKD("mlp", energy, energy)
    server, states = beginning(cohort, method)
    history = [server]
    everyone = list(cohort.networks)
    for round, clients in enumerate((everyone[:2], everyone[1:3], everyone[:1], [], everyone), start=1):
        server = step(cohort, method, round, server, states, *clients) if clients else server
        for client in clients:
            assert states[client].changes == history[-1].changes
            assert equal(states[client].mentee or {}, history[-1].weights)
        history.append(server)
    assert [one.changes for one in history] == [0, 1, 2, 3, 3, 4]
    lengths = {client: len(method.message(history[-2], client).changes) for client in everyone}
    assert list(lengths.values()) == expected
    whole = sum(value.numel() for value in server.weights.values())
    assert all(sum(map(change_size, one.latest)) <= whole for one in history)


def test_whoever_lacks_more_than_is_kept_gets_the_whole_mentee() -> None:
    kept = Change({"w": torch.tensor([1.0])}, {}, {})
    server = Mentee({"w": torch.tensor([9.0])}, 5, (kept, kept), {"now": 5, "near": 4, "edge": 3, "far": 2})
    method = FedKD()
    assert method.message(server, "now") == News(None, 5, ())
    assert method.message(server, "near") == News(None, 4, (kept,))
    assert method.message(server, "edge") == News(None, 3, (kept, kept))
    for client in ("far", "never seen"):
        assert method.message(server, client) == News(server.weights, 5, ())


def test_a_client_whose_reply_was_lost_takes_no_change_twice() -> None:
    cohort, method = make_cohort("mlp"), FedKD("mlp", 0.5, 0.5)
    server, states = beginning(cohort, method)
    server = step(cohort, method, 1, server, states, "client00", "client01")
    view = cohort.client_view("client00", 2)
    ahead, _, _ = method.client_step(states["client00"], method.message(server, "client00"), view)
    assert (ahead.changes, server.known["client00"]) == (1, 0)
    states["client00"] = ahead
    before, server = server, step(cohort, method, 2, server, states, "client01")
    assert equal(ahead.mentee or {}, before.weights)
    news = method.message(server, "client00")
    assert (news.weights, news.since, len(news.changes)) == (None, 0, 2)
    after, _, _ = method.client_step(ahead, news, dataclasses.replace(view, round=3))
    assert after.changes == 2
    assert equal(after.mentee or {}, server.weights)


def test_a_state_of_an_earlier_round_is_refused() -> None:
    cohort, method = make_cohort("mlp"), FedKD("mlp")
    _, states = beginning(cohort, method)
    with pytest.raises(ParcelError, match="client00 has 0 changes of the mentee, and the server takes it to have 3"):
        method.client_step(states["client00"], News(None, 3, ()), cohort.client_view("client00", 4))


def test_the_server_compresses_by_the_energy_of_the_round() -> None:
    cohort, method = make_cohort("mlp", clients=1), FedKD("mlp", 0.25, 0.65, 2)
    network = method.init_server(InProcess(method, Workers(cohort)).server_view(0))
    name, held = next((name, value) for name, value in network.weights.items() if value.dim() == 2)
    values = torch.zeros_like(held)
    for place in range(10):
        values[place, place] = 1.0  # ten equal singular values: a tenth of the energy each
    added = {one: values if one == name else torch.zeros_like(value) for one, value in network.weights.items()}
    for round, kept in ((1, 5), (2, 7), (9, 7)):  # 0.45 and 0.65 of ten, rounded up
        view = InProcess(method, Workers(cohort)).server_view(round)
        after, _ = method.server_step(network, {"client00": Learnt(Change(added, {}, {}), 24)}, view)
        assert after.latest[-1].left[name].shape[1] == kept
        assert (after.weights[name] - held).square().sum().item() == pytest.approx(kept, rel=1e-4)


def test_the_classifier_stays_whole_on_both_ways() -> None:
    cohort, method = make_cohort("mlp", clients=2), FedKD("mlp", 0.5, 0.5)
    server, states = beginning(cohort, method)
    view = cohort.client_view("client00", 1)
    _, reply, _ = method.client_step(states["client00"], method.message(server, "client00"), view)
    head = f"{head_name(build(MLP, 0), 4)}.weight"
    # It would be smaller as a product, and the matrices before it are.
    assert head in compress(reply.change.whole, 0.5, ()).left
    assert reply.change.left.keys() == {name for name, value in server.weights.items() if value.dim() == 2} - {head}
    server, _ = method.server_step(server, {"client00": reply}, InProcess(method, Workers(cohort)).server_view(1))
    assert head in server.latest[-1].whole
    assert server.latest[-1].left.keys() == reply.change.left.keys()
    assert torch.equal(server.latest[-1].whole[head], reply.change.whole[head])


def test_the_energy_rises_to_its_end() -> None:
    method = FedKD(energy_start=0.5, energy_end=0.9, energy_rounds=4)
    assert [method.energy(round) for round in (0, 1, 2, 4, 9)] == pytest.approx([0.5, 0.6, 0.7, 0.9, 0.9])
