"""Known answers of FedMD and FedTGP."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch
from toy import make_cohort
from toy_rounds import run

from pfedhr.algorithm import SettingError, Setup
from pfedhr.algorithms.consensus import Consensus, PublicLogits
from pfedhr.algorithms.fedmd import FedMD
from pfedhr.algorithms.fedtgp import FedTGP, Trainable, adaptive_margin, margin_loss
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.local_public import LocalPublic
from pfedhr.algorithms.needs import public_data
from pfedhr.algorithms.own import Own
from pfedhr.algorithms.per_class import ClassMeans, ClassTable
from pfedhr.federate import Schedule
from pfedhr.in_process import InProcess, Workers
from pfedhr.models import ModelError
from pfedhr.parcel import Tensors, unpack
from pfedhr.seeding import generator


def test_the_consensus_is_the_plain_mean() -> None:
    view = InProcess(FedMD(), Workers(make_cohort("mlp"))).server_view(3)
    logits = torch.arange(20.0).view(5, 4)
    server, _ = FedMD().server_step(Consensus(None, 0), {"a": PublicLogits(logits), "b": PublicLogits(3 * logits)}, view)
    assert server.logits is not None
    assert torch.equal(server.logits, 2 * logits)
    assert server.round == 3
    alone, _ = FedMD().server_step(server, {"a": PublicLogits(logits)}, view)
    assert alone.logits is not None
    assert torch.equal(alone.logits, logits)  # one client: its own logits, so a digest loss of 0


def test_subsets_are_the_same_for_all_clients_and_change_each_round() -> None:
    cohort = make_cohort("mlp")
    method = FedMD(public_examples=6)
    first, second = (method.public_inputs(cohort.client_view(client, 1), 1) for client in ("client00", "client01"))
    assert torch.equal(first, second)
    assert len(first) == 6
    assert not torch.equal(first, method.public_inputs(cohort.client_view("client00", 1), 2))


def test_without_public_steps_fedmd_learns_as_if_alone() -> None:
    cohort = make_cohort("cnn1", labelled=False)
    _, alone = run(Local(), cohort, Schedule(2, 4))
    _, states = run(FedMD(pretraining_epochs=0, consensus_epochs=0), cohort, Schedule(2, 4))
    for client, state in states.items():
        weights = unpack(FedMD.client_state, state or b"").weights
        assert all(torch.equal(weights[name], value) for name, value in unpack(Own, alone[client] or b"").weights.items())


def test_one_public_example_is_enough_to_align_on() -> None:
    results, _ = run(FedMD(public_examples=1), make_cohort("mlp"), Schedule(2, 4))
    server = unpack(Consensus, results[-1].progress.server)
    assert server.logits is not None
    assert server.logits.shape == (1, 4)


@pytest.mark.parametrize(
    ("method", "place"),
    [
        (FedMD(public_examples=9, consensus_batch_size=8, pretraining_epochs=0), "algorithm.consensus_batch_size"),
        (FedMD(), "plan.batch_size and the public data"),
        (LocalPublic(), "plan.batch_size and the public data"),
    ],
)
def test_a_last_batch_of_one_that_a_network_cannot_learn_from_is_refused(method, place: str) -> None:
    cohort = make_cohort("toy:normed")
    public = cohort.federation.public.take(torch.arange(16 if "consensus" in place else 9))
    with pytest.raises(ModelError, match=f"{place}.*9 examples in batches of 8 leave a batch of one"):
        method.check(Setup(cohort.networks, public, cohort.training, 4))


def test_digesting_brings_clients_nearer_to_each_other() -> None:
    def spread(method: FedMD) -> float:
        cohort = make_cohort("mlp", labelled=False, epochs=1)
        engine = InProcess(method, Workers(cohort))
        sent: list[torch.Tensor] = []
        scores = Consensus(None, 0)
        states = {client: method.init_client(cohort.client_view(client, 0)) for client in cohort.networks}
        for round in range(1, 4):
            replies = {}
            for client in cohort.networks:
                states[client], replies[client], _ = method.client_step(
                    states[client], scores, cohort.client_view(client, round)
                )
            scores, _ = method.server_step(scores, replies, engine.server_view(round))
            sent = [reply.logits for reply in replies.values()]
        return torch.stack(sent).std(0).mean().item()

    digesting = spread(FedMD(pretraining_epochs=0, consensus_epochs=20, consensus_batch_size=4))
    assert digesting < spread(FedMD(pretraining_epochs=0, consensus_epochs=0))


def test_the_margin_loss_has_its_known_values() -> None:
    prototypes = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    mean, label = torch.tensor([[0.0, 0.0]]), torch.tensor([0])
    assert margin_loss(mean, label, prototypes, 0.0).item() == pytest.approx(math.log1p(math.exp(-5)), abs=2e-6)
    assert margin_loss(mean, label, prototypes, 5.0).item() == pytest.approx(math.log(2), abs=2e-6)
    prototypes.requires_grad_()
    (gradient,) = torch.autograd.grad(margin_loss(mean, label, prototypes, 5.0), [prototypes])
    assert torch.isfinite(gradient).all()


def test_the_margin_adapts_to_how_far_classes_are_apart() -> None:
    rows = torch.tensor([[0.0], [1.0], [5.0], [99.0]])
    assert adaptive_margin(ClassTable(rows, torch.tensor([True, True, True, False]))) == 4.0  # nearest: 1, 1, 4
    assert adaptive_margin(ClassTable(rows, torch.tensor([True, False, False, False]))) == math.inf


def prototypes_of(maker: Tensors) -> torch.Tensor:
    hidden = (maker["vectors"] @ maker["layers.0.weight"].T + maker["layers.0.bias"]).relu()
    return hidden @ maker["layers.2.weight"].T + maker["layers.2.bias"]


def descended(
    maker: Tensors, means: torch.Tensor, classes: list[int], margin: float, batches: Iterator[torch.Tensor]
) -> Tensors:
    """The weights after a step of 0.05 down the mean loss of every batch, each mean's own class made farther by the margin."""
    for batch in batches:
        maker = {name: value.clone().requires_grad_() for name, value in maker.items()}
        rows, losses = prototypes_of(maker), []
        for place in batch.tolist():
            far = [(means[place] - row).norm() + (margin if at == classes[place] else 0) for at, row in enumerate(rows)]
            losses.append(far[classes[place]] + (-torch.stack(far)).logsumexp(0))
        gradients = torch.autograd.grad(sum(losses, torch.zeros(())) / len(batch), list(maker.values()))
        maker = {name: (value - 0.05 * by).detach() for (name, value), by in zip(maker.items(), gradients, strict=True)}
    return maker


@pytest.mark.parametrize(("limit", "margins"), [(100.0, (97**0.5, 10.0)), (2.0, (2.0, 2.0))], ids=["free", "capped"])
def test_the_server_of_fedtgp_steps_on_the_loss_of_everyones_last_means(limit: float, margins: tuple[float, float]) -> None:
    """Two rounds beside the obvious descent: the second goes on where the first ended."""
    method = FedTGP(margin_limit=limit, server_epochs=3, server_batch_size=2, server_learning_rate=0.05)
    engine = InProcess(method, Workers(make_cohort("mlp")))
    first = {
        "b": ClassMeans(torch.tensor([[4.0, 0.0], [9.0, 9.0]]), torch.tensor([1, 3])),
        "a": ClassMeans(torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 1, 2])),
    }
    # Centres (0, 0), (3, 0), (0, 5), (9, 9): the last is farthest from its nearest, (0, 5). Then it is 10 away from it.
    second = {"b": ClassMeans(torch.tensor([[4.0, 0.0], [6.0, 13.0]]), torch.tensor([1, 3]))}
    classes = [0, 1, 2, 1, 3]
    server = method.init_server(engine.server_view(0))
    untrained, _ = dataclasses.replace(method, server_epochs=0).server_step(server, first, engine.server_view(1))
    expected = untrained.maker
    for round, replies, last in ((1, first, [9.0, 9.0]), (2, second, [6.0, 13.0])):
        view = engine.server_view(round)
        server, metrics = method.server_step(server, replies, view)
        rng = generator(view.seed, round, "prototypes")
        batches = (batch for _ in range(3) for batch in torch.randperm(5, generator=rng).split(2))
        means = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 5.0], [4.0, 0.0], last])
        expected = descended(expected, means, classes, margins[round - 1], batches)
        assert metrics["margin"] == pytest.approx(margins[round - 1], rel=1e-6)
        assert server.maker.keys() == expected.keys()
        for name, value in server.maker.items():
            assert torch.allclose(value, expected[name], atol=1e-5), name
        assert server.down.table is not None
        assert torch.allclose(server.down.table.rows, prototypes_of(expected), atol=1e-5)


def test_prototypes_of_all_known_classes_go_down() -> None:
    cohort = make_cohort("mlp", features=8)
    results, _ = run(FedTGP(server_epochs=2), cohort, Schedule(1, 4))
    server = unpack(Trainable, results[-1].progress.server)
    assert server.down.table is not None
    assert server.down.table.known.all()
    assert server.down.table.rows.shape == (4, 8)
    assert 0 < results[-1].server["margin"] <= 100


def test_without_epochs_on_them_local_public_needs_no_public_data_and_is_local_bit_for_bit() -> None:
    cohort, method = make_cohort("cnn1", labelled=False), LocalPublic(public_epochs=0)
    assert method.public_use(labelled=True) == method.public_use(labelled=False) == "none"
    assert LocalPublic().public_use(labelled=True) == "labels at clients"
    setup = Setup(cohort.networks, cohort.federation.public.take(torch.arange(0)), cohort.training, 4)
    public_data(method, setup)
    method.check(setup)
    assert run(method, cohort, Schedule(2, 4))[1] == run(Local(), cohort, Schedule(2, 4))[1]
    with pytest.raises(
        SettingError, match=r"local-public needs labels.*public.labelled = true, or algorithm.public_epochs = 0"
    ):
        LocalPublic().check(setup)


@pytest.mark.parametrize("method", [FedMD(public_examples=0), FedTGP(server_batch_size=0), LocalPublic(public_epochs=-1)])
def test_settings_out_of_range_are_refused(method) -> None:
    cohort = make_cohort("mlp")
    with pytest.raises(SettingError, match=f"algorithm.*{method.name}"):
        method.check(Setup(cohort.networks, cohort.federation.public, cohort.training, 4))
