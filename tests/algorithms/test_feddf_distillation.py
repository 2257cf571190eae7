"""FedDF's distillation into each structure's mean."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator

import pytest
import torch
from test_feddf import sent, step
from torch import nn
from toy import equal, kl, make_cohort

from pfedhr.algorithms.feddf import DistillationJob, FedDF, Fusions, distil_into, ensemble_logits
from pfedhr.algorithms.private import restore
from pfedhr.algorithms.uploads import describe_network
from pfedhr.in_process import InProcess, Workers
from pfedhr.inference import predict
from pfedhr.learning import Training, distil, soft_targets
from pfedhr.models import build
from pfedhr.parcel import pack
from pfedhr.reassembly import rebuild

CPU = torch.device("cpu")


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


def test_a_distillation_that_runs_away_names_structure_and_round_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    cohort = make_cohort("mlp", clients=2)
    replies = sent(cohort)
    first, _ = step(FedDF(), cohort, Fusions({}, {}, {}), replies)
    after, metrics = step(FedDF(tuning_learning_rate=1e38), cohort, first, replies)
    assert f"distilling structure {replies['client00'].structure[:12]} in round 1 leaves" in caplog.text
    assert pack(after) == pack(first)
    assert metrics["distil_loss"] == {}
