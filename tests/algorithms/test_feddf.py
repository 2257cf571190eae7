"""Known answers of FedDF."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
import torch
from torch import nn
from toy import equal, make_cohort
from toy_rounds import run

from pfedhr.algorithm import SettingError, Setup
from pfedhr.algorithms.fedavg import FedAvg
from pfedhr.algorithms.feddf import FedDF, Fusion, Fusions
from pfedhr.algorithms.held import Held, Shared
from pfedhr.algorithms.private import common_weights
from pfedhr.algorithms.uploads import Upload, describe_network, upload
from pfedhr.federate import Schedule
from pfedhr.in_process import Cohort, InProcess, Workers
from pfedhr.learning import Training
from pfedhr.models import ModelError, build
from pfedhr.parcel import pack, unpack
from pfedhr.reassembly import DescriptionError, rebuild


def sent(cohort: Cohort, seed: int = 0, known: tuple[str, ...] = ()) -> dict[str, Upload]:
    """An upload of every client, their weights as different as seeds make them, and their examples 1, 2, 3 and so on."""
    inputs = torch.zeros(3, 1, 8, 8)
    uploads = {}
    for number, (client, network) in enumerate(cohort.networks.items(), start=1):
        weights = build(network, seed, client).state_dict()
        uploads[client] = dataclasses.replace(upload(network, weights, inputs, known), examples=number)
    return uploads


def step(method: FedDF, cohort: Cohort, server: Fusions, replies: Mapping[str, Upload], round: int = 1):
    with Workers(cohort) as workers:
        return method.server_step(server, replies, InProcess(method, workers).server_view(round))


@pytest.mark.parametrize("schedule", [Schedule(2, 4), Schedule(4, 2)], ids=["all", "some"])  # of some, two come late
@pytest.mark.parametrize("network", ["cnn1", "cnn4"])  # with dropout, and with batch norms besides
def test_one_structure_without_distillation_is_fedavg_bit_for_bit(network: str, schedule: Schedule) -> None:
    cohort = make_cohort(network)
    plain, plain_states = run(FedAvg(), cohort, schedule)
    fused, fused_states = run(FedDF(tuning_epochs=0), cohort, schedule)
    assert all(plain_states.values())
    assert len(plain[0].active) == schedule.active
    assert plain_states == fused_states
    mean = unpack(Shared, plain[-1].progress.server).weights
    server = unpack(Fusions, fused[-1].progress.server)
    names = describe_network(cohort.networks["client00"], torch.float32).names
    (weights,) = server.fused.values()
    assert mean is not None
    assert equal({own: weights[name] for name, own in names.items()}, {own: mean[own] for own in names.values()})
    assert set(names.values()) == mean.keys()
    assert fused[-1].server == {"distil_loss": {}}


def test_each_structure_is_averaged_apart_by_examples() -> None:
    cohort = make_cohort("cnn1", "mlp")
    replies = sent(cohort)
    server, _ = step(FedDF(tuning_epochs=0), cohort, Fusions({}, {}, {}), replies)
    assert len(server.fused) == len(server.known) == 2
    for first, second, share in (("client00", "client02", 0.75), ("client01", "client03", 4 / 6)):
        assert server.structures[first] == server.structures[second] == replies[first].structure
        for name, value in server.fused[replies[first].structure].items():
            expected = (1 - share) * replies[first].weights[name] + share * replies[second].weights[name]
            assert torch.allclose(value, expected, atol=1e-6)


def test_a_structure_without_replies_stays_as_it_was() -> None:
    cohort, method = make_cohort("cnn1", "mlp"), FedDF(tuning_epochs=1, tuning_batch_size=8)
    before, _ = step(method, cohort, Fusions({}, {}, {}), sent(cohort))
    again = sent(cohort, 1, tuple(before.known))
    after, metrics = step(method, cohort, before, {client: again[client] for client in ("client00", "client02")}, 2)
    cnn1, mlp = (again[client].structure for client in ("client00", "client01"))
    assert equal(after.fused[mlp], before.fused[mlp])
    assert not equal(after.fused[cnn1], before.fused[cnn1])
    assert after.structures == before.structures
    assert list(metrics["distil_loss"]) == [cnn1[:12]]
    assert metrics["tune_seconds"] > 0


def test_a_client_gets_its_own_structure_under_its_own_names_once_the_server_knows_it() -> None:
    cohort, method = make_cohort("cnn4", "mlp", clients=2), FedDF(tuning_epochs=0)
    idle = Training(0, 8, 0.002)
    states = {client: method.init_client(cohort.client_view(client, 0)) for client in cohort.networks}
    server, replies = Fusions({}, {}, {}), {}
    for client in cohort.networks:
        message = method.message(server, client)
        assert message == Fusion({}, ())
        view = dataclasses.replace(cohort.client_view(client, 1), training=idle)
        states[client], replies[client], _ = method.client_step(states[client], message, view)
        assert equal(states[client].weights, common_weights(view.network, 0))  # all of one structure begin with it
        assert states[client].shared is None
        assert replies[client].blueprint is not None
    changed = sent(cohort, 5)
    server, _ = step(method, cohort, server, changed)
    for client, network in cohort.networks.items():
        view = dataclasses.replace(cohort.client_view(client, 2), training=idle)
        after, reply, _ = method.client_step(states[client], method.message(server, client), view)
        assert equal(after.weights, dict(build(network, 5, client).state_dict()))
        assert after.shared is not None
        assert equal(after.shared, after.weights)
        assert reply.blueprint is None  # the server has it
        assert equal(reply.weights, changed[client].weights)
        assert list(method.message(server, client).weights) == [reply.structure]


def test_a_client_never_heard_of_takes_the_network_of_its_structure_from_all() -> None:
    cohort, method = make_cohort("cnn4", "mlp", "cnn1", "mlp"), FedDF(tuning_epochs=0)
    replies = sent(cohort, 5)
    server, _ = step(method, cohort, Fusions({}, {}, {}), {client: replies[client] for client in ("client00", "client01")})
    message = method.message(server, "client03")
    assert message.weights.keys() == server.fused.keys() == {replies[client].structure for client in ("client00", "client01")}
    late = dataclasses.replace(cohort.client_view("client03", 2), training=Training(0, 8, 0.002))
    after, reply, _ = method.client_step(method.init_client(late), message, late)
    assert equal(reply.weights, replies["client01"].weights)
    assert after.shared is not None
    assert equal(after.shared, dict(build(late.network, 5, "client01").state_dict()))
    # Nobody of its structure has replied: it begins as all of its structure do.
    alone = dataclasses.replace(cohort.client_view("client02", 2), training=Training(0, 8, 0.002))
    after, _, _ = method.client_step(method.init_client(alone), method.message(server, "client02"), alone)
    assert after.shared is None
    assert equal(after.weights, common_weights(alone.network, 0))


def test_the_order_of_replies_changes_nothing() -> None:
    cohort, method = make_cohort("cnn1", "mlp"), FedDF(tuning_epochs=1)
    replies = sent(cohort)
    first, _ = step(method, cohort, Fusions({}, {}, {}), replies)
    second, _ = step(method, cohort, Fusions({}, {}, {}), dict(reversed(replies.items())))
    assert pack(first) == pack(second)


class Tied(nn.Module):
    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, classes)
        self.second.weight = self.first.weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.first(images.flatten(1)).relu()).relu())


def test_tied_weights_stay_tied_on_both_sides() -> None:
    cohort = make_cohort(f"{__name__}:Tied")
    results, states = run(FedDF(tuning_epochs=1, tuning_batch_size=8), cohort, Schedule(3, 4))
    server = unpack(Fusions, results[-1].progress.server)
    ((structure, weights),) = server.fused.items()
    assert len(weights) == 5
    rebuild(server.known[structure], weights)  # raises if a name is missing
    held = unpack(Held, states["client00"] or b"")
    assert torch.equal(held.weights["first.weight"], held.weights["second.weight"])
    assert not equal(held.weights, common_weights(cohort.networks["client00"], 0))


def test_weights_of_another_network_and_unknown_structures_are_refused() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=2)
    replies = sent(cohort)
    swapped = {"client00": dataclasses.replace(replies["client00"], weights=replies["client01"].weights)}
    unknown = {"client01": dataclasses.replace(replies["client01"], blueprint=None)}
    view = InProcess(FedDF(), Workers(cohort)).server_view(1)
    faults = FedDF().faults(Fusions({}, {}, {}), swapped | unknown, view)
    assert "not those of the blueprint" in faults["client00"]
    assert "client01 uploaded a network of structure" in faults["client01"]


class Unwritable(nn.Module):
    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(64, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.cumsum(images.flatten(1), 1).erfinv_())


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        (FedDF(tuning_epochs=-1), "tuning_epochs"),
        (FedDF(tuning_batch_size=0), "tuning_batch_size"),
        (FedDF(tuning_learning_rate=0.0), "tuning_learning_rate"),
        (FedDF(temperature=0.0), "temperature"),
    ],
)
def test_settings_out_of_range_are_refused(method: FedDF, setting: str) -> None:
    cohort = make_cohort("mlp")
    with pytest.raises(SettingError, match=f"algorithm.{setting} .*feddf: choose"):
        method.check(Setup(cohort.networks, cohort.federation.public, cohort.training, 4))


def test_networks_that_cannot_travel_or_learn_in_these_batches_are_refused() -> None:
    cohort = make_cohort("toy:normed")
    public = cohort.federation.public.take(torch.arange(9))
    with pytest.raises(ModelError, match=r"algorithm.tuning_batch_size.*9 examples in batches of 8 leave a batch of one"):
        FedDF(tuning_batch_size=8).check(Setup(cohort.networks, public, cohort.training, 4))
    FedDF(tuning_epochs=0, tuning_batch_size=8).check(Setup(cohort.networks, public, cohort.training, 4))
    cohort = make_cohort("mlp", f"{__name__}:Unwritable")
    with pytest.raises(DescriptionError, match="Unwritable"):
        FedDF().check(Setup(cohort.networks, cohort.federation.public, cohort.training, 4))
