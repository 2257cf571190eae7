"""Known answers of the methods that exchange one vector a class."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from methods import METHODS, suited
from torch import nn
from toy import make_cohort
from toy_rounds import run

from pfedhr.algorithm import Algorithm, SettingError, Setup
from pfedhr.algorithms.feddistill import FedDistill, towards
from pfedhr.algorithms.fedgh import FedGH, train_header
from pfedhr.algorithms.fedproto import FedProto, ServerTable
from pfedhr.algorithms.fedtgp import FedTGP
from pfedhr.algorithms.held import Shared
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.own import Own
from pfedhr.algorithms.per_class import ClassMeans, ClassTable, class_means, merge
from pfedhr.algorithms.private import initial_weights, restore
from pfedhr.algorithms.prototypes import Guided, NearestRow, pull
from pfedhr.federate import Schedule
from pfedhr.heads import Extractor, HeadError
from pfedhr.in_process import InProcess, Workers
from pfedhr.parcel import unpack
from pfedhr.seeding import generator


def sent(means: list[list[float]], classes: list[int], counts: list[int] | None = None) -> ClassMeans:
    return ClassMeans(torch.tensor(means), torch.tensor(classes), None if counts is None else torch.tensor(counts))


def test_class_means_are_means_of_each_class() -> None:
    found = class_means(torch.tensor([[1.0, 0.0], [5.0, 2.0], [3.0, 4.0]]), torch.tensor([2, 0, 2]), counted=True)
    assert found.classes.tolist() == [0, 2]
    assert found.counts is not None
    assert found.counts.tolist() == [1, 2]
    assert found.means.tolist() == [[5.0, 2.0], [2.0, 2.0]]


def test_no_gradient_flows_into_what_a_network_said() -> None:
    said = torch.ones(2, 3, requires_grad=True) * 2
    assert not class_means(said, torch.tensor([0, 1])).means.requires_grad


@pytest.mark.parametrize("method", [FedProto(), FedTGP(), FedGH(), FedDistill()], ids=lambda method: method.name)
def test_what_a_client_sends_is_what_its_network_says_after_training(method: Algorithm) -> None:
    cohort = make_cohort("mlp", features=16)
    view = cohort.client_view("client00", 1)
    start = method.init_client(view)
    message = method.message(method.init_server(InProcess(method, Workers(cohort)).server_view(0)), "client00")
    state, reply, _ = method.client_step(start, message, view)
    model, before = (restore(view.network, one.weights).eval() for one in (state, start))
    examples = view.train.ready(view.device)
    for label, mean in zip(reply.classes.tolist(), reply.means, strict=True):
        own = examples.inputs[examples.labels == label]
        assert torch.allclose(mean, said(model, own, method.name).mean(0), atol=1e-5)
        assert not torch.allclose(mean, said(before, own, method.name).mean(0), atol=1e-3)


def said(model: nn.Module, inputs: torch.Tensor, name: str) -> torch.Tensor:
    """The probabilities that FedDistill exchanges, or the features that enter a network's last linear layer."""
    entered: list[torch.Tensor] = []
    head = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]
    handle = head.register_forward_pre_hook(lambda _, arguments: entered.append(arguments[0].detach()))
    logits = model(inputs).detach()
    handle.remove()
    return logits.exp() / logits.exp().sum(1, keepdim=True) if name == "feddistill" else entered[0]


def test_merging_counts_owners_of_a_class_alone() -> None:
    table = merge({"a": sent([[0.0], [8.0]], [0, 1], [1, 1]), "b": sent([[4.0]], [0], [3])}, 3)
    assert table.rows.tolist() == [[3.0], [8.0], [0.0]]
    assert table.known.tolist() == [True, True, False]
    plain = merge({"a": sent([[0.0], [8.0]], [0, 1]), "b": sent([[4.0]], [0])}, 3)
    assert plain.rows.tolist() == [[2.0], [8.0], [0.0]]


@pytest.mark.parametrize("algorithm", [method for method in METHODS if method.values[0].reply_type is ClassMeans])
def test_how_many_examples_of_a_class_a_client_has_is_told_only_to_who_weighs_by_it(algorithm: Algorithm) -> None:
    cohort = suited(algorithm, "mlp", clients=1)
    view = cohort.client_view("client00", 1)
    message = algorithm.message(algorithm.init_server(InProcess(algorithm, Workers(cohort)).server_view(0)), "client00")
    _, reply, _ = algorithm.client_step(algorithm.init_client(view), message, view)
    assert (reply.counts is not None) == (algorithm.name == "fedproto")


def test_features_at_their_prototype_are_not_pulled_and_unknown_classes_never() -> None:
    table = ClassTable(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([True, False]))
    assert pull(torch.tensor([[1.0, 2.0], [9.0, 9.0]]), torch.tensor([0, 1]), table).item() == 0.0
    assert pull(torch.tensor([[2.0, 2.0], [9.0, 9.0]]), torch.tensor([0, 1]), table).item() == 0.25  # (1 + 0) / 2 over two


def test_the_nearest_known_row_wins() -> None:
    model = nn.Sequential(nn.Identity(), nn.Linear(2, 3))
    table = ClassTable(torch.tensor([[0.0, 0.0], [4.0, 0.0], [1.0, 0.0]]), torch.tensor([True, True, False]))
    logits = NearestRow(model, 3, table)(torch.tensor([[1.0, 0.0], [3.0, 1.0]]))
    assert logits[:, :2].tolist() == [[-1.0, -9.0], [-10.0, -2.0]]
    assert logits.argmax(1).tolist() == [0, 1]


def test_a_client_is_served_by_its_head_or_by_the_nearest_prototype_that_it_was_given() -> None:
    view = make_cohort("mlp", clients=1).client_view("client00", 1)
    weights = initial_weights(view)
    inputs = view.train.ready(view.device).inputs
    network = restore(view.network, weights).eval()
    logits = network(inputs)
    features, _ = Extractor(network, 4)(inputs)
    table = ClassTable(features[:4].detach(), torch.ones(4, dtype=torch.bool))
    state, by_prototypes = Guided(weights, table), FedProto(prediction="prototypes")
    assert torch.equal(FedProto().personal_model(state, view).eval()(inputs), logits)
    assert by_prototypes.personal_model(state, view).eval()(inputs[:4]).argmax(1).tolist() == [0, 1, 2, 3]
    assert torch.equal(by_prototypes.personal_model(Guided(weights, None), view).eval()(inputs), logits)
    # Prototypes of a round in which nobody held one of the client's classes would never say that class.
    missing = view.train.labels[0]
    partial = Guided(weights, ClassTable(table.rows, torch.arange(4) != missing))
    assert torch.equal(by_prototypes.personal_model(partial, view).eval()(inputs), logits)


def test_targets_of_distillation_are_distributions() -> None:
    table = ClassTable(torch.tensor([[0.5, 0.5], [0.0, 1.0]]), torch.tensor([True, False]))
    assert towards(torch.zeros(1, 2), torch.tensor([0]), table).item() == pytest.approx(0.693147, abs=1e-6)
    assert towards(torch.zeros(2, 2), torch.tensor([0, 1]), table).item() == pytest.approx(0.693147 / 2, abs=1e-6)


@pytest.mark.parametrize("method", [FedProto(prototype_weight=0), FedDistill(distil_weight=0)])
def test_without_their_term_clients_learn_as_if_alone(method) -> None:
    cohort = make_cohort("cnn1", features=16)
    _, alone = run(Local(), cohort, Schedule(2, 3))
    _, states = run(method, cohort, Schedule(2, 3))
    for client, state in states.items():
        assert (state is None) == (alone[client] is None)
        if state is not None:
            weights = unpack(method.client_state, state).weights
            expected = unpack(Own, alone[client] or b"").weights
            assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_one_client_of_feddistill_has_no_target() -> None:
    cohort = make_cohort("mlp", clients=1)
    _, alone = run(Local(), cohort, Schedule(3, 1))
    results, states = run(FedDistill(), cohort, Schedule(3, 1))
    assert states == alone
    server = unpack(FedDistill.server_state, results[-1].progress.server)
    assert FedDistill().message(server, "client00").table is None
    table = FedDistill().message(server, "another").table
    assert table is not None
    assert torch.allclose(table.rows.sum(1), torch.ones(4))


def test_prototypes_of_one_client_are_its_own_means() -> None:
    results, states = run(FedProto(), make_cohort("mlp", clients=1), Schedule(1, 1))
    server = unpack(ServerTable, results[-1].progress.server)
    assert server.down.table is not None
    own = server.latest.sent["client00"]
    assert torch.allclose(server.down.table.rows[own.classes], own.means)
    assert unpack(Guided, states["client00"] or b"").table is None  # what is made in a round goes down in the next


def test_a_header_is_left_alone_or_learns_separable_means() -> None:
    torch.manual_seed(0)
    header = nn.Linear(4, 4)
    before = {name: value.clone() for name, value in header.state_dict().items()}
    means, classes = torch.eye(4) * 5, torch.arange(4)
    untouched = train_header(header, means, classes, 0, 0.1, generator(0, "a"))
    assert all(torch.equal(untouched[name], value) for name, value in before.items())
    train_header(header, means, classes, 20, 0.1, generator(0, "a"))
    assert header(means).argmax(1).tolist() == [0, 1, 2, 3]


def test_the_server_of_fedgh_steps_on_every_mean_by_itself_from_the_header_of_the_round_before() -> None:
    """Two rounds beside the gradient of softmax regression, written out."""
    method = FedGH(header_epochs=3, header_learning_rate=0.1)
    engine = InProcess(method, Workers(make_cohort("mlp", features=2)))
    sent_first = {
        "b": sent([[0.5, 1.0], [-1.0, 2.0]], [1, 3]),
        "a": sent([[3.0, 0.0], [2.0, -1.0], [0.0, -2.0]], [0, 1, 2]),
    }
    sent_second = {"a": sent([[1.0, 1.0]], [2])}
    untrained, _ = dataclasses.replace(method, header_epochs=0).server_step(Shared(None), sent_first, engine.server_view(1))
    assert untrained.weights is not None
    weight, bias = untrained.weights["weight"], untrained.weights["bias"]
    server = Shared(None)
    for round, replies in ((1, sent_first), (2, sent_second)):
        view = engine.server_view(round)
        server, _ = method.server_step(server, replies, view)
        pairs = [
            (mean, label)
            for client in sorted(replies)
            for mean, label in zip(replies[client].means, replies[client].classes.tolist(), strict=True)
        ]
        rng = generator(view.seed, round, "header")
        for place in [place for _ in range(3) for place in torch.randperm(len(pairs), generator=rng).tolist()]:
            mean, label = pairs[place]
            wrong = (weight @ mean + bias).softmax(0) - torch.eye(4)[label]
            weight, bias = weight - 0.1 * wrong[:, None] * mean, bias - 0.1 * wrong
        assert server.weights is not None
        assert torch.allclose(server.weights["weight"], weight, atol=1e-5)
        assert torch.allclose(server.weights["bias"], bias, atol=1e-5)


def test_a_header_of_one_mean_improves_step_by_step() -> None:
    header, mean, label = nn.Linear(3, 2), torch.tensor([[1.0, -1.0, 2.0]]), torch.tensor([1])
    losses = []
    for _ in range(5):
        losses.append(nn.functional.cross_entropy(header(mean), label).item())
        train_header(header, mean, label, 1, 0.01, generator(0, "a"))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("method", [FedProto(prototype_weight=-1.0), FedDistill(distil_weight=-1.0), FedGH(header_epochs=-1)])
def test_settings_out_of_range_are_refused(method) -> None:
    cohort = make_cohort("mlp")
    with pytest.raises(SettingError, match=f"algorithm.*{method.name}"):
        method.check(Setup(cohort.networks, cohort.federation.public, cohort.training, 4))


def headless(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes), nn.Softmax(1))


def test_a_network_whose_features_cannot_be_told_is_named() -> None:
    cohort = make_cohort("mlp", f"{__name__}:headless")
    setup = Setup(cohort.networks, cohort.federation.public, cohort.training, 4)
    with pytest.raises(HeadError, match=r"the network '.*headless': the network's last linear layer, '1', is not what"):
        FedGH().check(setup)
