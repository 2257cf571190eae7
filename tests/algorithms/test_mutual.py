"""Known answers of the methods whose clients train a common network beside their own: FML and FedKEMF."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn import functional
from toy import distance, equal, kl, make_cohort
from toy_rounds import run

from pfedhr.algorithm import SettingError, Setup
from pfedhr.algorithms.averaging import weighted_mean
from pfedhr.algorithms.fedavg import FedAvg
from pfedhr.algorithms.fedkemf import FedKEMF, ensemble
from pfedhr.algorithms.fml import FML
from pfedhr.algorithms.held import Held, Shared
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.mutual import CommonWeights, Mutual
from pfedhr.algorithms.own import Own
from pfedhr.algorithms.private import common_weights, restore, weights_of
from pfedhr.federate import Schedule
from pfedhr.in_process import InProcess, Workers
from pfedhr.inference import predict
from pfedhr.learning import batches
from pfedhr.models import ModelSpec
from pfedhr.parcel import Tensors, unpack
from pfedhr.seeding import generator

MLP = ModelSpec("mlp", (1, 8, 8), 4)


def other_weights(seed: int) -> Tensors:
    return common_weights(MLP, seed)


@pytest.mark.parametrize(
    "method",
    [FML(common_network="mlp", own_label_share=1, common_label_share=1), FedKEMF(common_network="mlp", distil_weight=0)],
    ids=["fml", "fedkemf"],
)
def test_networks_that_teach_each_other_nothing_learn_as_if_alone_bit_for_bit(method: Mutual) -> None:
    cohort = make_cohort("resnet", "mlp-wide")
    _, alone = run(Local(), cohort, Schedule(2, 3))
    _, states = run(method, cohort, Schedule(2, 3))
    for client in cohort.networks:
        if alone[client] is not None:
            expected = unpack(Own, alone[client] or b"").weights
            assert equal(unpack(Held, states[client] or b"").weights, expected)


def test_the_common_network_of_fml_is_then_the_plain_mean_of_fedavg_bit_for_bit() -> None:
    # Clients hold equally many examples, so the mean by examples is the plain one.
    average, _ = run(FedAvg(), make_cohort("mlp"), Schedule(2, 3))
    method = FML(common_network="mlp", own_label_share=1, common_label_share=1)
    results, _ = run(method, make_cohort("resnet", "mlp-wide"), Schedule(2, 3))
    found, expected = (unpack(Shared, one[-1].progress.server).weights for one in (results, average))
    assert found is not None
    assert expected is not None
    assert equal(found, expected)


def test_the_mean_of_fml_is_plain() -> None:
    view = InProcess(FML(), Workers(make_cohort("mlp"))).server_view(1)
    sent = {"b": CommonWeights(other_weights(1)), "a": CommonWeights(other_weights(2)), "c": CommonWeights(other_weights(3))}
    server, _ = FML().server_step(Shared(None), sent, view)
    assert server.weights is not None
    for name, value in server.weights.items():
        assert torch.allclose(value, torch.stack([one.weights[name] for one in sent.values()]).mean(0), atol=1e-6)


@pytest.mark.parametrize("name", ["fml", "fedkemf"])
def test_both_networks_step_on_the_equations_of_the_method(name: str) -> None:
    """One training of both beside the obvious one: two optimisers, each network's loss by itself."""
    method = FML("mlp", 0.3, 0.6) if name == "fml" else FedKEMF("mlp", 0.7)
    factors = ((0.3, 0.7), (0.6, 0.4)) if name == "fml" else ((1, 0.7), (1, 0.7))
    view = make_cohort("mlp-wide").client_view("client00", 1)
    state = method.init_client(view)
    held, sent, _ = method.client_step(state, Shared(None), view)
    examples = view.train.ready(view.device)
    own, common = restore(view.network, state.weights), restore(MLP, common_weights(MLP, view.seed))
    optimisers = [torch.optim.Adam(one.parameters(), lr=0.002, weight_decay=1e-4) for one in (own, common)]
    rng = generator(view.seed, 1, "client00", "batches")
    for batch in batches(len(view.train), 8, rng, view.device):
        inputs, labels = examples.inputs[batch], examples.labels[batch]
        logits = own(inputs), common(inputs)
        for at in (0, 1):
            labelled, taught = factors[at]
            loss = labelled * functional.cross_entropy(logits[at], labels) + taught * kl(logits[1 - at], logits[at])
            optimisers[at].zero_grad()
            loss.backward()
        for optimiser in optimisers:
            optimiser.step()
    for found, expected, start in (
        (held.weights, weights_of(own), state.weights),
        (sent.weights, weights_of(common), common_weights(MLP, view.seed)),
    ):
        # Adam turns the rounding of gradients near 0 into steps, in few weights: what counts is the distance gone.
        assert distance(found, expected) < 0.01 * distance(expected, start)


def test_identical_networks_teach_each_other_nothing() -> None:
    view = make_cohort("mlp").client_view("client00", 1)
    method = FML("mlp", 0, 0)
    start = common_weights(MLP, view.seed)
    still = dataclasses.replace(view, training=dataclasses.replace(view.training, weight_decay=0.0))
    held, sent, metrics = method.client_step(Held(start, None), Shared(None), still)
    assert metrics["loss"] == pytest.approx(0, abs=1e-6)
    plain, _, _ = FML("mlp", 1, 1).client_step(Held(start, None), Shared(None), still)
    assert equal(held.weights, sent.weights)  # both feel the same, whatever rounding makes of nothing
    assert not equal(plain.weights, held.weights)


def test_the_common_network_received_last_stands_beside_the_own_one() -> None:
    view = make_cohort("mlp-wide").client_view("client00", 1)
    for method in (FML("mlp"), FedKEMF("mlp")):
        state = method.init_client(view)
        assert method.teacher_model(state, view) is None
        given = other_weights(5)
        held, _, _ = method.client_step(state, Shared(given), view)
        teacher = method.teacher_model(held, view)
        assert teacher is not None
        assert equal(weights_of(teacher), given)
        assert equal(weights_of(method.personal_model(held, view)), held.weights)


def test_ensembles_have_their_known_values() -> None:
    first, second = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(9.0), 0.0]])
    both = torch.stack([first, second])
    assert torch.allclose(ensemble(both, "average").exp(), torch.tensor([[0.7, 0.3]]))  # (0.5 + 0.9) / 2
    assert torch.allclose(ensemble(both, "maximum").exp(), torch.tensor([[0.9, 0.1]]))  # logits log 9 and 0
    for kind in ("average", "maximum"):
        same = ensemble(torch.stack([second] * 3), kind)
        assert torch.allclose(same.exp(), torch.tensor([[0.9, 0.1]]))
        assert torch.equal(ensemble(second[None], kind), second.log_softmax(1))


@pytest.mark.parametrize("kind", ["average", "maximum"])
def test_a_knowledge_network_that_is_its_ensemble_has_nothing_to_learn(kind) -> None:
    view = InProcess(FedKEMF(), Workers(make_cohort("mlp"))).server_view(1)
    method = FedKEMF("mlp", ensemble=kind, tuning_epochs=1)
    weights = other_weights(3)
    alone, metrics = method.server_step(Shared(weights), {"a": CommonWeights(weights)}, view)
    assert metrics["distil_loss"] == pytest.approx(0, abs=1e-6)
    three, _ = method.server_step(Shared(weights), {name: CommonWeights(weights) for name in "abc"}, view)
    # Adam makes steps of what rounding leaves of a gradient of 0; they are steps of its learning rate at most.
    for after in (alone, three):
        assert after.weights is not None
        assert all((after.weights[name] - value).abs().max() <= 2.5e-3 for name, value in weights.items())


def test_fusion_brings_the_knowledge_network_to_the_ensemble(caplog: pytest.LogCaptureFixture) -> None:
    view = InProcess(FedKEMF(), Workers(make_cohort("mlp", labelled=False))).server_view(2)
    replies = {name: CommonWeights(other_weights(seed)) for seed, name in enumerate("ab", start=7)}
    losses = {}
    for epochs in (1, 40):
        method = FedKEMF("mlp", tuning_epochs=epochs, tuning_batch_size=8)
        _, metrics = method.server_step(Shared(None), replies, view)
        losses[epochs] = metrics["distil_loss"]
        assert {"ensemble_seconds", "tune_seconds"} < metrics.keys()
    assert losses[40] < losses[1] / 10
    before = Shared(other_weights(3))
    after, metrics = FedKEMF("mlp", tuning_learning_rate=1e38).server_step(before, replies, view)
    assert "distilling the ensemble in round 2 leaves the network as it was" in caplog.text
    assert after.weights is not None
    assert before.weights is not None
    assert equal(after.weights, before.weights)
    assert metrics["distil_loss"] is None
    turned = dict(reversed(replies.items()))
    server, _ = FedKEMF("mlp").server_step(Shared(None), replies, view)
    again, _ = FedKEMF("mlp").server_step(Shared(None), turned, view)
    assert server.weights is not None
    assert again.weights is not None
    assert equal(server.weights, again.weights)
    mean = weighted_mean([one.weights for one in replies.values()], [1, 1])
    assert not equal(server.weights, mean)


def test_each_kind_of_ensemble_is_what_the_server_distils() -> None:
    cohort = make_cohort("mlp", clients=2)
    view = InProcess(FedKEMF(), Workers(cohort)).server_view(1)
    inputs = cohort.federation.public.ready(torch.device("cpu")).inputs
    # Networks that are sure of different things, so that the mean of probabilities and the largest logits differ.
    sure = [{name: 3 * value for name, value in other_weights(seed).items()} for seed in (7, 8)]
    replies = {"a": CommonWeights(sure[0]), "b": CommonWeights(sure[1])}
    first, second = (predict(restore(MLP, one.weights), inputs) for one in replies.values())
    targets = {"average": (first.softmax(1) + second.softmax(1)) / 2, "maximum": torch.maximum(first, second).softmax(1)}
    start = predict(restore(MLP, other_weights(5)), inputs)
    found, losses = {}, {}
    for kind, target in targets.items():
        still = FedKEMF("mlp", ensemble=kind, tuning_epochs=1, tuning_learning_rate=1e-9)
        _, metrics = still.server_step(Shared(other_weights(5)), replies, view)
        losses[kind] = metrics["distil_loss"]
        assert losses[kind] == pytest.approx((target * (target.log() - start.log_softmax(1))).sum(1).mean().item(), rel=1e-4)
        found[kind], _ = FedKEMF("mlp", ensemble=kind).server_step(Shared(other_weights(5)), replies, view)
    assert abs(losses["average"] - losses["maximum"]) > 1e-2 * losses["average"]
    average, maximum = (found[kind].weights for kind in targets)
    assert average is not None
    assert maximum is not None
    assert not equal(average, maximum)


def test_what_methods_take_of_public_data() -> None:
    assert FML().public_use(labelled=True) == "none"
    assert FedKEMF().public_use(labelled=True) == "inputs at the server"


@pytest.mark.parametrize("method", [FML, FedKEMF])
@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ("cnn9", "unknown model"),
        ("lstm", "tokens"),
        ("toy:normed", "batch of one"),
    ],
)
def test_common_networks_that_cannot_be_trained_are_refused(method: type[Mutual], network: str, reason: str) -> None:
    cohort = make_cohort("mlp")
    with pytest.raises(SettingError, match=f"algorithm.common_network = '{network}' of {method.name}.*{reason}"):
        method(common_network=network).check(Setup(cohort.networks, cohort.federation.public, cohort.training, 4))


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        (FML(own_label_share=1.5), "own_label_share"),
        (FML(common_label_share=-0.1), "common_label_share"),
        (FedKEMF(distil_weight=-1), "distil_weight"),
        (FedKEMF(tuning_epochs=0), "tuning_epochs"),
        (FedKEMF(tuning_batch_size=0), "tuning_batch_size"),
        (FedKEMF(tuning_learning_rate=0), "tuning_learning_rate"),
    ],
)
def test_settings_out_of_range_are_refused(method: Mutual, setting: str) -> None:
    cohort = make_cohort("mlp")
    with pytest.raises(SettingError, match=f"algorithm.{setting} = .* of {method.name}: choose"):
        method.check(Setup(cohort.networks, cohort.federation.public, cohort.training, 4))
