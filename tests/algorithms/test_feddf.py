"""Known answers of FedDF."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator, Mapping

import pytest
import torch
from test_contract import run
from torch import nn
from toy import equal, kl, make_cohort

from pfedhr.algorithm import SettingError, Setup
from pfedhr.algorithms.fedavg import FedAvg
from pfedhr.algorithms.feddf import DistillationJob, FedDF, Fusion, Fusions, distil_into, ensemble_logits
from pfedhr.algorithms.held import Held, Shared
from pfedhr.algorithms.private import common_weights, restore
from pfedhr.algorithms.uploads import Upload, describe_network, upload
from pfedhr.federate import Schedule
from pfedhr.in_process import Cohort, InProcess, Workers
from pfedhr.inference import predict
from pfedhr.learning import Training, distil, soft_targets
from pfedhr.models import ModelError, build
from pfedhr.parcel import pack, unpack
from pfedhr.reassembly import DescriptionError, rebuild

CPU = torch.device("cpu")


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


def test_distillation_begins_every_round_with_the_mean_of_that_round() -> None:
    cohort = make_cohort("mlp", clients=2)
    method = FedDF(tuning_epochs=1, tuning_batch_size=16, tuning_learning_rate=1e-9)
    before, _ = step(method, cohort, Fusions({}, {}, {}), sent(cohort))
    replies = sent(cohort, 1)
    after, metrics = step(method, cohort, before, replies, 2)
    ((structure, weights),) = after.fused.items()
    one, two = (replies[client].weights for client in ("client00", "client01"))
    for name, value in weights.items():
        expected = (one[name] + 2 * two[name]) / 3
        assert torch.allclose(value, expected, atol=1e-6)
        assert not torch.allclose(before.fused[structure][name], expected, atol=1e-3)
    inputs = cohort.federation.public.ready(CPU).inputs
    start, *taught = (
        predict(rebuild(after.known[structure], held), inputs)
        for held in ({name: (one[name] + 2 * two[name]) / 3 for name in one}, one, two)
    )
    assert metrics["distil_loss"][structure[:12]] == pytest.approx(kl((taught[0] + taught[1]) / 2, start).item(), rel=1e-3)


def test_the_ensemble_is_the_mean_of_all_logits_in_evaluation() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=2)
    view = InProcess(FedDF(), Workers(cohort)).server_view(1)
    models = [build(network, 0).train() for network in cohort.networks.values()]
    inputs = cohort.federation.public.ready(torch.device("cpu")).inputs
    first, second = (predict(model, inputs) for model in models)
    assert torch.allclose(ensemble_logits(models, view), (first + second) / 2)


def test_networks_teach_one_after_the_other() -> None:
    cohort = make_cohort("mlp", clients=3)
    view = InProcess(FedDF(), Workers(cohort)).server_view(1)
    alive: weakref.WeakSet[nn.Module] = weakref.WeakSet()
    most = 0

    def networks() -> Iterator[nn.Module]:
        nonlocal most
        for seed in range(4):
            model = build(cohort.networks["client00"], seed)
            alive.add(model)
            most = max(most, len(alive))
            yield model
            del model

    logits = [predict(build(cohort.networks["client00"], seed), view.public.ready(CPU).inputs) for seed in range(4)]
    assert torch.allclose(ensemble_logits(networks(), view), torch.stack(logits).mean(0), atol=1e-6)
    assert most <= 2


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distillation_softens_both_sides_by_the_temperature(temperature: float) -> None:
    cohort = make_cohort("mlp", clients=2)
    inputs = cohort.federation.public.ready(CPU).inputs
    replies = {
        client: dataclasses.replace(one, weights={name: 3 * value for name, value in one.weights.items()})
        for client, one in sent(cohort).items()
    }
    logits = [predict(rebuild(one.blueprint, one.weights), inputs) for one in replies.values() if one.blueprint]
    targets = (torch.stack(logits).mean(0) / temperature).softmax(1)
    untaught, _ = step(FedDF(tuning_epochs=0), cohort, Fusions({}, {}, {}), replies)
    ((structure, weights),) = untaught.fused.items()
    scores = (predict(rebuild(untaught.known[structure], weights), inputs) / temperature).log_softmax(1)
    divergence = (targets * (targets.log() - scores)).sum(1).mean() * temperature**2
    method = FedDF(tuning_epochs=1, tuning_batch_size=16, tuning_learning_rate=1e-9, temperature=temperature)
    _, metrics = step(method, cohort, Fusions({}, {}, {}), replies)
    assert metrics["distil_loss"][structure[:12]] == pytest.approx(divergence.item(), rel=1e-4)
    assert len(logits) == 2
    assert divergence > 1e-2


def test_one_network_has_nothing_to_learn_from_itself() -> None:
    cohort = make_cohort("mlp", clients=1)
    model = build(cohort.networks["client00"], 0)
    logits = model(cohort.federation.public.ready(torch.device("cpu")).inputs)
    loss = distil(logits, soft_targets(logits))
    assert loss.item() == 0.0
    for gradient in torch.autograd.grad(loss, list(model.parameters())):
        assert gradient.abs().max() < 1e-7
    replies = sent(cohort)
    server, metrics = step(FedDF(), cohort, Fusions({}, {}, {}), replies)
    assert metrics == {"distil_loss": {}}
    (weights,) = server.fused.values()
    assert equal(weights, replies["client00"].weights)


def test_a_network_learns_what_the_ensemble_says_and_nothing_else_changes() -> None:
    cohort = make_cohort("cnn4", clients=1)
    description = describe_network(cohort.networks["client00"], torch.float32)
    weights = description.weights(build(cohort.networks["client00"], 0))
    targets = soft_targets(torch.eye(4).repeat(4, 1) * 3)
    view = InProcess(FedDF(), Workers(cohort)).server_view(1)
    kept = {name: value.clone() for name, value in weights.items()}

    def taught(epochs: int):
        return distil_into(DistillationJob(description.blueprint, weights, targets, 1.0, Training(epochs, 8, 0.001)), view)

    assert taught(20).loss < taught(1).loss / 2
    assert equal(weights, kept)
    assert equal(taught(1).weights, taught(1).weights)
    assert taught(1).weights.keys() == weights.keys()


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


def test_distillation_brings_structures_nearer_to_the_ensemble() -> None:
    def distance(epochs: int) -> float:
        cohort = make_cohort("cnn1", "mlp")
        replies = sent(cohort)
        server, _ = step(FedDF(tuning_epochs=epochs, tuning_batch_size=8), cohort, Fusions({}, {}, {}), replies)
        inputs = cohort.federation.public.ready(torch.device("cpu")).inputs
        logits = [predict(rebuild(server.known[one], weights), inputs) for one, weights in server.fused.items()]
        view = InProcess(FedDF(), Workers(cohort)).server_view(1)
        models = [restore(network, build(network, 0, client).state_dict()) for client, network in cohort.networks.items()]
        targets = soft_targets(ensemble_logits(models, view))
        return sum(distil(one, targets).item() for one in logits)

    assert distance(20) < distance(0) / 2


def test_public_data_is_used_by_what_is_distilled_only() -> None:
    assert FedDF().public_use(True) == FedDF().public_use(False) == "inputs at the server"
    assert FedDF(tuning_epochs=0).public_use(True) == "none"


def test_weights_of_another_network_and_unknown_structures_are_refused() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=2)
    replies = sent(cohort)
    swapped = {"client00": dataclasses.replace(replies["client00"], weights=replies["client01"].weights)}
    unknown = {"client01": dataclasses.replace(replies["client01"], blueprint=None)}
    view = InProcess(FedDF(), Workers(cohort)).server_view(1)
    faults = FedDF().faults(Fusions({}, {}, {}), swapped | unknown, view)
    assert "not those of the blueprint" in faults["client00"]
    assert "client01 uploaded a network of structure" in faults["client01"]


def test_a_distillation_that_runs_away_names_structure_and_round_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    cohort = make_cohort("mlp", clients=2)
    replies = sent(cohort)
    first, _ = step(FedDF(), cohort, Fusions({}, {}, {}), replies)
    after, metrics = step(FedDF(tuning_learning_rate=1e38), cohort, first, replies)
    assert f"distilling structure {replies['client00'].structure[:12]} in round 1 leaves" in caplog.text
    assert pack(after) == pack(first)
    assert metrics["distil_loss"] == {}


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
