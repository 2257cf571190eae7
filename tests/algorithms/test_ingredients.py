"""What makes each method another than its neighbours: what it trains on, towards what, and whose example has which target."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy import equal, kl, make_cohort

from pfedhr.algorithm import ClientView
from pfedhr.algorithms import private, public_training, tuning
from pfedhr.algorithms.consensus import ByConsensus, Consensus
from pfedhr.algorithms.fccl import FCCL, correlation_loss
from pfedhr.algorithms.feddistill import FedDistill
from pfedhr.algorithms.fedgh import FedGH
from pfedhr.algorithms.fedmd import FedMD
from pfedhr.algorithms.fedproto import FedProto
from pfedhr.algorithms.fedtgp import FedTGP
from pfedhr.algorithms.held import Shared
from pfedhr.algorithms.local_public import LocalPublic
from pfedhr.algorithms.own import Nothing
from pfedhr.algorithms.per_class import ClassMeans, ClassTable, Down
from pfedhr.algorithms.per_fedavg import PerFedAvg
from pfedhr.algorithms.pfedclub import PFedClub
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.private import restore
from pfedhr.algorithms.shared_head import take_head
from pfedhr.algorithms.teacher import Teacher, draft, teacher_network
from pfedhr.algorithms.tuning import TuningJob, tune
from pfedhr.algorithms.uploads import Upload, deposit_sources, learn_structures, sources_of, upload
from pfedhr.data import Examples
from pfedhr.in_process import InProcess, Workers
from pfedhr.inference import predict
from pfedhr.learning import Training
from pfedhr.models import build
from pfedhr.reassembly import Recipe
from pfedhr.seeding import generator

BATCH = torch.tensor([3, 0, 7])


@dataclass(frozen=True)
class Fit:
    """One training that was asked for: the loss of the network that it was to change, at BATCH, and on how many examples.

    `gradient`: of that loss in all weights of the network, one after the other.
    """

    value: float
    gradient: Tensor
    count: int
    epochs: int


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[Fit]:
    """What every training is asked to do, none of which is done."""
    asked: list[Fit] = []

    def fit(
        model: nn.Module, count: int, loss: Callable[[nn.Module, Tensor], Tensor], training: Training, rng: object
    ) -> float:
        value = loss(model.eval(), BATCH)
        asked.append(Fit(value.item(), gradient(value, model), count, training.epochs))
        return 0.0

    monkeypatch.setattr(private, "fit", fit)
    monkeypatch.setattr(public_training, "fit", fit)
    return asked


def gradient(loss: Tensor, model: nn.Module) -> Tensor:
    parts = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def check(fit: Fit, loss: Tensor, model: nn.Module, count: int, epochs: int) -> None:
    """Assert that a training was asked to lower `loss` of `model`: its value, and where it leads."""
    assert (fit.count, fit.epochs) == (count, epochs)
    assert fit.value == pytest.approx(loss.item(), rel=1e-5)
    expected = gradient(loss, model)
    assert expected.norm() > 1e-3
    assert (fit.gradient - expected).norm() < 1e-4 * expected.norm()


def a_client(network: str = "mlp", features: int = 0, round: int = 2) -> ClientView:
    return make_cohort(network, features=features).client_view("client00", round)


def own_loss(view: ClientView, model: nn.Module) -> Tensor:
    """The cross entropy of a network on the private examples at BATCH."""
    examples = view.train.ready(view.device)
    return functional.cross_entropy(model(examples.inputs[BATCH]), examples.labels[BATCH])


def test_feddistill_teaches_the_others_output_of_an_examples_class(fits: list[Fit]) -> None:
    view, method = a_client(), FedDistill(distil_weight=0.3)
    rows, known = torch.rand(4, 4).softmax(1), torch.tensor([True, True, True, False])
    state = method.init_client(view)
    method.client_step(state, Down(ClassTable(rows, known)), view)
    model, examples = restore(view.network, state.weights).eval(), view.train.ready(view.device)
    labels = examples.labels[BATCH]
    assert labels.tolist() == [3, 0, 3]
    said = model(examples.inputs[BATCH]).log_softmax(1)
    taught = [
        -(rows[label] * one).sum() if known[label] else torch.tensor(0.0) for label, one in zip(labels, said, strict=True)
    ]
    (fit,) = fits
    check(fit, own_loss(view, model) + 0.3 * sum(taught) / 3, model, 24, 1)


@pytest.mark.parametrize(
    "method", [FedProto(prototype_weight=0.3), FedTGP(prototype_weight=0.3)], ids=lambda method: method.name
)
def test_prototypes_pull_the_features_of_their_class(method: FedProto | FedTGP, fits: list[Fit]) -> None:
    view = a_client(features=16)
    rows, known = torch.randn(4, 16), torch.tensor([True, True, True, False])
    state = method.init_client(view)
    method.client_step(state, Down(ClassTable(rows, known)), view)
    model, examples = restore(view.network, state.weights).eval(), view.train.ready(view.device)
    entered: list[Tensor] = []
    [head] = [part for part in model.modules() if isinstance(part, nn.Linear) and part.out_features == 4]
    head.register_forward_pre_hook(lambda _, arguments: entered.append(arguments[0]))
    loss = own_loss(view, model)
    pulls = [
        (features - rows[label]).square().mean() * known[label]
        for features, label in zip(entered[0], examples.labels[BATCH], strict=True)
    ]
    (fit,) = fits
    check(fit, loss + 0.3 * sum(pulls) / 3, model, 24, 1)


def test_fedgh_begins_with_the_header_that_came_and_goes_on_with_the_one_it_has(fits: list[Fit]) -> None:
    cohort, method = make_cohort("mlp", features=16), FedGH()
    view, server_view = cohort.client_view("client00", 2), InProcess(FedGH(), Workers(cohort)).server_view(2)
    header = {"weight": torch.randn(4, 16), "bias": torch.randn(4)}
    state, _, _ = method.client_step(method.init_client(view), Shared(header), view)
    assert equal(take_head(view.network, state.weights), header)
    sent = {"a": ClassMeans(torch.randn(2, 16), torch.tensor([0, 2]), torch.tensor([3, 5]))}
    kept, _ = FedGH(header_epochs=0).server_step(Shared(header), sent, server_view)
    assert kept.weights is not None
    assert equal(kept.weights, header)


def test_local_public_trains_on_the_public_labels_first(fits: list[Fit]) -> None:
    view, method = a_client(), LocalPublic(public_epochs=5)
    state = method.init_client(view)
    method.client_step(state, Nothing(), view)
    model, public = restore(view.network, state.weights).eval(), view.public.ready(view.device)
    assert isinstance(public, Examples)
    on_public = functional.cross_entropy(model(public.inputs[BATCH]), public.labels[BATCH])
    first, second = fits
    check(first, on_public, model, 16, 5)
    check(second, own_loss(view, model), model, 24, 1)


def test_a_client_of_fedmd_is_prepared_on_public_labels_once(fits: list[Fit]) -> None:
    method = FedMD(pretraining_epochs=5, consensus_epochs=2)
    first, second = a_client(round=1), a_client(round=2)
    state, sent, _ = method.client_step(method.init_client(first), Consensus(None, 0), first)
    assert [(fit.count, fit.epochs) for fit in fits] == [(16, 5), (24, 1)]
    fits.clear()
    method.client_step(state, Consensus(sent.logits, 1), second)
    assert [(fit.count, fit.epochs) for fit in fits] == [(16, 2), (24, 1)]


@pytest.mark.parametrize("method", [FedMD(pretraining_epochs=0), FCCL()], ids=lambda method: method.name)
def test_a_consensus_is_of_the_round_and_the_examples_that_it_was_scored_on(method: ByConsensus, fits: list[Fit]) -> None:
    """Of its own logits of round 1 a client that did not train is no distance away in round 2."""
    first, second = a_client(round=1), a_client(round=2)
    state, sent, _ = method.client_step(method.init_client(first), Consensus(None, 0), first)
    fits.clear()
    method.client_step(state, Consensus(sent.logits, 1), second)
    said = sent.logits[BATCH]
    least = 0.0 if method.name == "fedmd" else correlation_loss(said, said, FCCL().correlation_weight).item()
    assert min(fit.value for fit in fits if fit.count == 16) == pytest.approx(least, abs=1e-5)
    fits.clear()
    method.client_step(state, Consensus(sent.logits.flip(0), 1), second)
    assert min(fit.value for fit in fits if fit.count == 16) > least + 1e-3


def test_fedmd_digests_the_mean_absolute_difference_from_the_consensus(fits: list[Fit]) -> None:
    view, method = a_client(), FedMD(pretraining_epochs=0, consensus_epochs=2)
    state, consensus = method.init_client(view), torch.randn(16, 4)
    method.client_step(state, Consensus(consensus, 1), view)
    model = restore(view.network, state.weights).eval()
    logits = model(method.public_inputs(view, 1)[BATCH])
    first, second = fits
    apart = [abs(logits[row, column] - consensus[place, column]) for row, place in enumerate(BATCH) for column in range(4)]
    check(first, torch.stack(apart).mean(), model, 16, 2)
    check(second, own_loss(view, model), model, 24, 1)


@pytest.mark.parametrize("steps", [1, 2])
def test_per_fedavg_serves_a_client_by_its_network_after_steps_on_its_examples(steps: int, fits: list[Fit]) -> None:
    view, method = a_client(), PerFedAvg(inner_learning_rate=0.5, adaptation_steps=steps)
    start = method.init_client(view).weights
    state, sent, _ = method.client_step(method.init_client(view), Shared(start), view)
    assert len(fits) == 1
    assert equal(sent.weights, start)
    model, examples = restore(view.network, start).train(), view.train.ready(view.device)
    rng = generator(view.seed, view.round, view.id, "meta-batches")
    for _ in range(2):  # the fixture evaluates the loss once, which draws twice
        torch.randint(24, (3,), generator=rng)
    for _ in range(steps):
        batch = torch.randint(24, (8,), generator=rng)
        loss = functional.cross_entropy(model(examples.inputs[batch]), examples.labels[batch])
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for value in model.parameters():
                assert value.grad is not None
                value -= 0.5 * value.grad
    for name, value in model.state_dict().items():
        assert torch.allclose(state.weights[name], value, atol=1e-6), name


def a_teacher(view: ClientView, sent: Upload) -> Teacher:
    """The network that was uploaded, as a teacher."""
    uploads = {"x": sent}
    sources = sources_of(uploads, learn_structures({}, uploads), 0)
    bank = deposit_sources(sources, view.device)
    return draft(Recipe(bank.chain("x")), bank, sources, "light", 1)


@pytest.mark.parametrize("method", [PFedHR, PFedClub], ids=lambda method: method.name)
def test_a_teacher_teaches_each_private_example_what_it_says_of_it(method: type[PFedHR | PFedClub], fits: list[Fit]) -> None:
    """Eq. (6), written out: the weight, the temperature, and which example has which target."""
    view = a_client()
    inputs = view.train.ready(view.device).inputs
    other = build(view.network, 1).state_dict()
    sent = upload(view.network, other, inputs, ())
    teacher = a_teacher(view, sent)
    form = method(distil_weight=0.3, temperature=2.0)
    term = form._term(teacher, view)
    assert term is not None
    logits = torch.randn(3, 4, requires_grad=True)
    said = predict(restore(view.network, other), inputs)[BATCH]
    assert torch.equal(said, predict(teacher_network(teacher), inputs)[BATCH])
    found, expected = term(logits, BATCH), 0.3 * 4 * kl(said / 2, logits / 2)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    (slope,), (expected_slope,) = (torch.autograd.grad(one, [logits]) for one in (found, expected))
    assert torch.allclose(slope, expected_slope, atol=1e-6)
    assert dataclasses.replace(form, distil_weight=0.0)._term(teacher, view) is None


@pytest.mark.parametrize("mirror", [True, False])
def test_without_an_aim_two_views_of_each_image_are_contrasted(mirror: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = make_cohort("mlp", labelled=False)
    cohort = dataclasses.replace(cohort, federation=dataclasses.replace(cohort.federation, mirror=mirror))
    view, client = InProcess(PFedHR(), Workers(cohort)).server_view(1), cohort.client_view("client00", 1)
    sent = upload(client.network, build(client.network, 0).state_dict(), client.train.ready(client.device).inputs, ())
    mirrored: list[bool] = []
    contrasted: list[tuple[Tensor, Tensor, float]] = []
    augmentation, contrast = tuning.Augmentation, tuning.nt_xent

    def watched(mirror: bool) -> tuning.Augmentation:
        mirrored.append(mirror)
        return augmentation(mirror)

    def contrasting(first: Tensor, second: Tensor, temperature: float) -> Tensor:
        contrasted.append((first.detach(), second.detach(), temperature))
        return contrast(first, second, temperature)

    monkeypatch.setattr(tuning, "Augmentation", watched)
    monkeypatch.setattr(tuning, "nt_xent", contrasting)
    tune(TuningJob(a_teacher(client, sent), Training(1, 8, 1e-3), 0.07), view)
    assert mirrored == [mirror]
    assert [len(first) for first, _, _ in contrasted] == [8, 8]
    for first, second, temperature in contrasted:
        assert temperature == 0.07
        assert not torch.equal(first, second)
