"""Known answers of FedKD: who gets which changes, and its losses."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from test_contract import run
from torch import nn
from torch.nn import functional
from toy import distance, equal, kl, make_cohort

from pfedhr.algorithm import SettingError, Setup
from pfedhr.algorithms.averaging import differences
from pfedhr.algorithms.compression import Change, change_size, compress
from pfedhr.algorithms.fedkd import FedKD, Learnt, Mentee, Mentor, News, adaptive_loss
from pfedhr.algorithms.private import common_weights, restore, weights_of
from pfedhr.federate import Schedule
from pfedhr.heads import head_name
from pfedhr.in_process import Cohort, InProcess, Workers
from pfedhr.learning import batches
from pfedhr.models import ModelSpec, build
from pfedhr.parcel import ParcelError, pack, unpack
from pfedhr.seeding import generator

MLP = ModelSpec("mlp", (1, 8, 8), 4)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def step(cohort: Cohort, method: FedKD, round: int, server: Mentee, states: dict[str, Mentor], *clients: str) -> Mentee:
    """One round of `clients`, whose new states go into `states`."""
    replies = {}
    for client in clients:
        view = cohort.client_view(client, round)
        states[client], replies[client], _ = method.client_step(states[client], method.message(server, client), view)
    return method.server_step(server, replies, InProcess(method, Workers(cohort)).server_view(round))[0]


def beginning(cohort: Cohort, method: FedKD) -> tuple[Mentee, dict[str, Mentor]]:
    server = method.init_server(InProcess(method, Workers(cohort)).server_view(0))
    return server, {client: method.init_client(cohort.client_view(client, 0)) for client in cohort.networks}


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


def test_with_all_the_energy_the_mentee_is_the_mean_by_examples() -> None:
    cohort, method = make_cohort("mlp"), FedKD("mlp", 1.0, 1.0)
    view = InProcess(method, Workers(cohort)).server_view(1)
    server = method.init_server(view)
    sent = [common_weights(MLP, seed) for seed in (5, 6)]
    changes = [compress(differences(server.weights, one), 1.0, ()) for one in sent]
    replies = {"b": Learnt(changes[0], 1), "a": Learnt(changes[1], 3)}
    after, metrics = method.server_step(server, replies, view)
    assert metrics == {"energy": 1.0}
    assert all(
        torch.allclose(value, 0.25 * sent[0][name] + 0.75 * sent[1][name], atol=1e-5) for name, value in after.weights.items()
    )


def test_the_loss_has_its_known_values_and_its_divisor_is_a_constant() -> None:
    even, labels = torch.zeros(3, 4), torch.tensor([0, 1, 2])
    # Equal predictions: no divergence; each cross entropy is log 4.
    assert adaptive_loss(even, even, labels, torch.tensor(2.0)).item() == pytest.approx(2 * math.log(4) + 1 / math.log(4))
    sure = 1000.0 * torch.eye(4)[:3]
    assert adaptive_loss(sure, sure, labels, torch.tensor(0.5)).item() == pytest.approx(500)  # 0.5 / 0.001, not infinity


def test_one_backward_pass_gives_each_network_the_gradient_of_its_own_loss() -> None:
    labels, hidden = torch.tensor([0, 1, 1]), (noise(3, 5), noise(3, 2, seed=1))
    own, common = (noise(3, 4, seed=seed).requires_grad_() for seed in (2, 3))
    features, mapped = hidden[0].clone().requires_grad_(), hidden[1].clone().requires_grad_()
    projection = noise(5, 2, seed=4).requires_grad_()
    leaves = [own, common, features, mapped, projection]
    distance = functional.mse_loss(mapped @ projection.T, features)
    found = torch.autograd.grad(adaptive_loss(own, common, labels, distance), leaves)

    sum_of_both = (functional.cross_entropy(own, labels) + functional.cross_entropy(common, labels)).item()
    mentor = (
        functional.cross_entropy(own, labels)
        + (kl(common, own) + functional.mse_loss(features, (mapped @ projection.T).detach())) / sum_of_both
    )
    mentee = (
        functional.cross_entropy(common, labels)
        + (kl(own, common) + functional.mse_loss(mapped @ projection.T, features.detach())) / sum_of_both
    )
    for loss, places in ((mentor, (0, 2)), (mentee, (1, 3, 4))):
        expected = torch.autograd.grad(loss, [leaves[place] for place in places])
        for place, gradient in zip(places, expected, strict=True):
            assert torch.allclose(found[place], gradient, atol=1e-6)


def features_and_logits(perceptron: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    *below, head = perceptron.children()
    features = nn.Sequential(*below)(inputs)
    return features, head(features)


@pytest.mark.parametrize(("round", "energy"), [(1, 0.5), (3, 0.9), (5, 0.9)])  # from 0.3 by 0.2 a round, up to the third
def test_a_client_steps_on_the_equations_of_the_method_and_keeps_the_energy_of_the_round(round: int, energy: float) -> None:
    """One training of all three beside the obvious one: each network's loss by itself, the other's part in it a constant."""
    method = FedKD("mlp", 0.3, 0.9, 3)
    view = make_cohort("mlp-wide").client_view("client00", round)
    start, given = method.init_client(view), common_weights(MLP, 5)
    after, reply, _ = method.client_step(start, News(given, 1, ()), view)

    examples = view.train.ready(view.device)
    mentor, mentee = restore(view.network, start.weights), restore(MLP, given)
    projection = start.projection.clone().requires_grad_()
    weights = [*mentor.parameters()], [*mentee.parameters(), projection]
    optimisers = [torch.optim.Adam(one, lr=0.002, weight_decay=1e-4) for one in weights]
    for batch in batches(24, 8, generator(view.seed, round, "client00", "batches"), view.device):
        labels = examples.labels[batch]
        (own_features, own), (features, common) = (features_and_logits(one, examples.inputs[batch]) for one in (mentor, mentee))
        wrong = [functional.cross_entropy(one, labels) for one in (own, common)]
        divisor = wrong[0].item() + wrong[1].item()
        mapped = features @ projection.T
        losses = (
            wrong[0] + (kl(common, own) + (own_features - mapped.detach()).square().mean()) / divisor,
            wrong[1] + (kl(own, common) + (own_features.detach() - mapped).square().mean()) / divisor,
        )
        gradients = [torch.autograd.grad(loss, one, retain_graph=True) for loss, one in zip(losses, weights, strict=True)]
        for optimiser, one, slopes in zip(optimisers, weights, gradients, strict=True):
            for value, slope in zip(one, slopes, strict=True):
                value.grad = slope
            optimiser.step()
    learnt = weights_of(mentee)
    assert distance(after.weights, weights_of(mentor)) < 0.01 * distance(weights_of(mentor), start.weights)
    assert torch.norm(after.projection - projection) < 0.01 * torch.norm(projection - start.projection)
    change = reply.change
    whole = {name: given[name] + value for name, value in change.whole.items()}
    assert distance(whole, {name: learnt[name] for name in whole}) < 0.01 * distance(learnt, given)
    assert len(change.left) == 3
    for name, left in change.left.items():
        added = (learnt[name] - given[name]).double()
        energies = torch.linalg.eigvalsh(added @ added.T).flip(0)  # the squares of the singular values
        shares, rank = [0.0, *(energies.cumsum(0) / energies.sum()).tolist()], left.shape[1]
        # Rounding, of which Adam makes steps, may move a share a little.
        assert shares[rank - 1] - 0.01 < energy < shares[rank] + 0.01, name
        kept = left.double() @ change.right[name].double()
        assert (kept.square().sum() / energies.sum()).item() == pytest.approx(shares[rank], abs=0.01), name
        assert ((kept - added).square().sum() / energies.sum()).item() == pytest.approx(1 - shares[rank], abs=0.01), name


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


def test_the_mentee_stands_beside_the_mentor_once_others_had_a_part_in_it() -> None:
    cohort, method = make_cohort("cnn1"), FedKD("mlp")
    server, states = beginning(cohort, method)
    view = cohort.client_view("client00", 1)
    assert method.teacher_model(states["client00"], view) is None
    server = step(cohort, method, 1, server, states, "client00")
    assert method.teacher_model(states["client00"], view) is None
    step(cohort, method, 2, server, states, "client00")
    teacher = method.teacher_model(states["client00"], view)
    assert teacher is not None
    assert equal(weights_of(teacher), server.weights)
    assert equal(weights_of(method.personal_model(states["client00"], view)), states["client00"].weights)
    assert not states["client00"].projection.equal(method.init_client(view).projection)
    assert method.public_use(labelled=True) == "none"


def test_networks_of_any_two_widths_learn_together() -> None:
    _, states = run(FedKD("cnn1"), make_cohort("mlp", "mlp-wide"), Schedule(1, 4))
    shapes = {client: tuple(unpack(Mentor, state or b"").projection.shape) for client, state in states.items()}
    assert set(shapes.values()) == {(64, 50), (256, 50)}


@pytest.mark.parametrize(
    ("own", "common", "place"),
    [("mlp", "toy:headless", "algorithm.common_network"), ("toy:headless", "mlp", "clients.models")],
)
def test_networks_without_features_are_refused(own: str, common: str, place: str) -> None:
    cohort = make_cohort(own)
    with pytest.raises(SettingError, match=f"{place}: fedkd needs the features of .*headless.*nn.Linear"):
        FedKD(common).check(Setup(cohort.networks, cohort.federation.public, cohort.training, 4))


@pytest.mark.parametrize("setting", [{"energy_start": 0.0}, {"energy_end": 1.5}, {"energy_rounds": 0}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    cohort = make_cohort("mlp")
    (name,) = setting
    with pytest.raises(SettingError, match=f"algorithm.{name} = .* of fedkd: choose"):
        FedKD(**setting).check(Setup(cohort.networks, cohort.federation.public, cohort.training, 4))
