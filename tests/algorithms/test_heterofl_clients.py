"""Clients of HeteroFL: which statistics, rows and slices are theirs, and what they serve."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_heterofl import QUARTER, check, named
from torch import nn
from torch.nn import functional
from toy import equal, make_cohort
from toy_rounds import run

from pfedhr.algorithms.fedavg import FedAvg
from pfedhr.algorithms.held import Held, Shared
from pfedhr.algorithms.heterofl import GlobalNetwork, HeteroFL, Portion
from pfedhr.algorithms.private import common_weights
from pfedhr.algorithms.slices import Slice, measure_statistics, rates_of, scaled, silence, slice_of
from pfedhr.federate import Schedule
from pfedhr.in_process import InProcess, Workers
from pfedhr.inference import predict
from pfedhr.learning import Training
from pfedhr.models import ModelSpec, build
from pfedhr.parcel import Tensors, pack, unpack
from pfedhr.seeding import generator


def shapes(weights: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in weights.items()}


def batch_normed(width: int):
    def factory(shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, classes))

    return factory


batch_normed_wide, batch_normed_narrow = batch_normed(8), batch_normed(4)


def test_statistics_of_one_batch_are_those_of_all_examples() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5))
    inputs = torch.randn(20, 1, 8, 8)
    measure_statistics(model, inputs, 20, generator(0, "once"))
    outputs = model[0](inputs)
    buffers = dict(model.named_buffers())
    assert torch.allclose(buffers["1.running_mean"], outputs.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(buffers["1.running_var"], outputs.var((0, 2, 3)), atol=1e-6)
    # In batches: the plain mean over them. Means then come out the same where batches are of one size.
    measure_statistics(model, inputs, 5, generator(0, "four"))
    assert buffers["1.num_batches_tracked"].item() == 4
    assert torch.allclose(buffers["1.running_mean"], outputs.mean((0, 2, 3)), atol=1e-6)


def test_a_client_takes_statistics_of_its_examples_and_the_server_averages_them_entry_by_entry() -> None:
    cohort, method = (
        make_cohort(f"{__name__}:batch_normed_wide", f"{__name__}:batch_normed_narrow"),
        HeteroFL(f"{__name__}:batch_normed_wide"),
    )
    check(method, cohort)
    server_view, replies = InProcess(method, Workers(cohort)).server_view(1), dict[str, Slice]()
    for client in ("client00", "client01", "client03"):
        view = cohort.client_view(client, 1)
        after, replies[client], _ = method.client_step(method.init_client(view), Portion(None), view)
        own = method.personal_model(after, view).state_dict()
        hidden = functional.linear(view.train.ready(view.device).inputs.flatten(1), own["1.weight"], own["1.bias"])
        order = torch.randperm(24, generator=generator(0, 1, client, "statistics"))
        batches = [hidden[places] for places in order.split(8)]
        means, variances = (sum(one) / 3 for one in ([b.mean(0) for b in batches], [b.var(0) for b in batches]))
        for held in (own, replies[client].weights):
            torch.testing.assert_close(held["2.running_mean"], means)
            torch.testing.assert_close(held["2.running_var"], variances)
            assert held["2.num_batches_tracked"] == 3

    server, _ = method.server_step(method.init_server(server_view), replies, server_view)
    assert server.weights is not None
    for name in ("2.running_mean", "2.running_var", "2.weight", "1.weight"):
        wide, *narrow = (replies[client].weights[name] for client in sorted(replies))
        for place, value in enumerate(server.weights[name]):
            held = [wide[place], *(one[place] for one in narrow if place < 4)]
            torch.testing.assert_close(value, sum(held) / len(held))


def test_absent_classes_are_silent_and_their_rows_never_trained() -> None:
    model = build(ModelSpec("cnn4-eighth", (1, 8, 8), 4), 0)
    silence(model, 4, torch.tensor([False, True, False, True]))
    logits = predict(model, torch.randn(6, 1, 8, 8))
    assert torch.equal(logits[:, [1, 3]], torch.zeros(6, 2))
    assert (logits[:, [0, 2]] != 0).all()

    cohort = make_cohort("cnn4-eighth", clients=1)
    view = cohort.client_view("client00", 1)
    some = view.train.take(torch.isin(view.train.labels, torch.tensor([0, 2])).nonzero()[:, 0])
    view = dataclasses.replace(view, train=some, training=Training(2, 8, 0.01))
    state = QUARTER.init_client(view)
    after, reply, _ = QUARTER.client_step(state, Portion(None), view)
    assert reply.classes == (0, 2)
    assert torch.equal(reply.weights["fc3.weight"][[1, 3]], state.weights["fc3.weight"][[1, 3]])
    assert not torch.equal(reply.weights["fc3.weight"][[0, 2]], state.weights["fc3.weight"][[0, 2]])
    logits = predict(QUARTER.personal_model(after, view), some.ready(view.device).inputs)
    assert torch.equal(logits[:, [1, 3]], torch.zeros(len(some), 2))


def test_the_loss_is_that_of_masked_and_scaled_outputs() -> None:
    cohort = make_cohort("test_heterofl:narrow", clients=1)
    view = cohort.client_view("client00", 1)
    some = view.train.take(torch.isin(view.train.labels, torch.tensor([1, 2])).nonzero()[:, 0])
    view = dataclasses.replace(view, train=some, training=Training(1, 64, 0.0))  # one batch, and no step
    method = named("wide")
    _, reply, metrics = method.client_step(method.init_client(view), Portion(None), view)
    weights = slice_of(common_weights(ModelSpec("test_heterofl:wide", (1, 8, 8), 4), 0), shapes(reply.weights))
    ready = some.ready(view.device)
    hidden = ready.inputs.flatten(1)
    for layer in ("1", "3"):
        hidden = functional.linear(hidden, weights[f"{layer}.weight"], weights[f"{layer}.bias"]).mul(4).relu()  # r = 1/4
    logits = functional.linear(hidden, weights["5.weight"], weights["5.bias"])
    logits[:, [0, 3]] = 0.0
    assert metrics["loss"] == pytest.approx(functional.cross_entropy(logits, ready.labels).item(), rel=1e-5)


def test_a_whole_client_with_all_classes_trains_as_in_fedavg() -> None:
    cohort = make_cohort("cnn1", epochs=2)  # with dropout, without norms
    method = HeteroFL("cnn1")
    plain, _ = run(FedAvg(), cohort, Schedule(1, 4))
    results, states = run(method, cohort, Schedule(1, 4))
    server, mean = unpack(GlobalNetwork, results[-1].progress.server).weights, unpack(Shared, plain[-1].progress.server).weights
    assert server is not None
    assert mean is not None
    assert all(torch.allclose(server[name], mean[name], atol=1e-6) for name in mean)
    for client, state in states.items():
        view = cohort.client_view(client, 1)
        _, trained, _ = FedAvg().client_step(FedAvg().init_client(view), Shared(None), view)
        assert equal(unpack(Held, state or b"").weights, trained.weights)


def test_a_client_serves_what_it_trained() -> None:
    cohort = make_cohort("cnn4-eighth", clients=1)
    view = cohort.client_view("client00", 1)
    after, reply, _ = QUARTER.client_step(QUARTER.init_client(view), Portion(None), view)
    twin = build(view.network, 0)
    twin.load_state_dict(reply.weights)
    inputs = view.train.ready(view.device).inputs
    with scaled(twin, rates_of(view.network, ModelSpec("cnn4-quarter", (1, 8, 8), 4))):
        expected = predict(twin, inputs)
    assert torch.allclose(predict(QUARTER.personal_model(after, view), inputs), expected, rtol=1e-3, atol=1e-4)


def test_a_client_never_heard_of_cuts_the_global_network_itself() -> None:
    cohort = make_cohort("cnn4-quarter", "cnn4-eighth")
    start = common_weights(cohort.networks["client00"], 0)
    view = InProcess(QUARTER, Workers(cohort)).server_view(1)
    server = QUARTER.init_server(view)
    assert QUARTER.message(server, "client01") == Portion(None)
    replies = {}
    for client in ("client00", "client01"):
        own = cohort.client_view(client, 1)
        idle = dataclasses.replace(own, training=Training(0, 8, 0.002))
        state = QUARTER.init_client(own)
        assert equal(state.weights, slice_of(start, shapes(state.weights)))
        _, reply, _ = QUARTER.client_step(state, Portion(None), idle)
        learnt = [name for name in start if "running" not in name and "tracked" not in name]
        assert all(torch.equal(reply.weights[name], state.weights[name]) for name in learnt)
        _, replies[client], _ = QUARTER.client_step(state, Portion(None), own)
    server, _ = QUARTER.server_step(server, replies, view)
    assert server.weights is not None
    known, unknown = QUARTER.message(server, "client01").weights, QUARTER.message(server, "client03").weights
    assert known is not None
    assert unknown is not None
    assert equal(unknown, server.weights)
    assert equal(known, slice_of(server.weights, shapes(replies["client01"].weights)))
    late = cohort.client_view("client03", 2)
    first = QUARTER.client_step(QUARTER.init_client(late), Portion(unknown), late)
    second = QUARTER.client_step(QUARTER.init_client(late), Portion(known), late)
    assert equal(first[1].weights, second[1].weights)


def test_the_order_of_replies_changes_nothing() -> None:
    cohort = make_cohort("cnn4-quarter", "cnn4-eighth", clients=3)
    view = InProcess(QUARTER, Workers(cohort)).server_view(1)
    weights = {client: build(network, 0, client).state_dict() for client, network in cohort.networks.items()}
    replies = {client: Slice(dict(held), (at, 3)) for at, (client, held) in enumerate(weights.items())}
    first, _ = QUARTER.server_step(GlobalNetwork(None, {}), replies, view)
    second, _ = QUARTER.server_step(GlobalNetwork(None, {}), dict(reversed(replies.items())), view)
    assert pack(first) == pack(second)
    assert list(first.shapes) == list(cohort.networks)
