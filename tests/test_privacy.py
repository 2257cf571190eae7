"""Differential privacy: what is clipped, drawn, counted, refused, and what leaves a client."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn
from toy import make_cohort, separable

from pfedhr.algorithm import Algorithm, SettingError, Setup
from pfedhr.algorithms import ALGORITHMS
from pfedhr.algorithms.fedavg import FedAvg
from pfedhr.algorithms.needs import private_training
from pfedhr.data import ClientData
from pfedhr.federate import RoundResult, Schedule, federate
from pfedhr.in_process import Cohort, InProcess, MemoryStore, Workers
from pfedhr.learning import (
    Privacy,
)
from pfedhr.transport import Admit, Order, Report

COVERED = {
    "local": {},
    "local-public": {},
    "fedavg": {},
    "fedprox": {},
    "lg-fedavg": {},
    "fedmd": {"consensus_batch_size": 8},
    "fccl": {"consensus_batch_size": 8},
    "fml": {"common_network": "mlp"},
    "fedkemf": {"common_network": "mlp", "tuning_epochs": 1, "tuning_batch_size": 8},
    "feddf": {"tuning_epochs": 1, "tuning_batch_size": 8},
    "heterofl": {"global_network": f"{__name__}:wide"},
    "pfedhr": {"groups": 3, "candidates": 3, "tuning_epochs": 1, "probe": 8},
    "pfedclub": {"groups": 3, "candidates": 2, "tuning_epochs": 1, "probe": 8},
}


UNCOVERED = {"per-fedavg", "pfedme", "pfedbayes", "fedproto", "fedtgp", "fedgh", "feddistill", "fedkd"}


NETWORKS = {"fedavg": ("mlp",), "fedprox": ("mlp",), "pfedme": ("mlp",), "heterofl": (f"{__name__}:wide", f"{__name__}:narrow")}


STRONG = Privacy(noise=1.0, clip=1.0, delta=1e-5)


METHODS = [pytest.param(ALGORITHMS[name](**settings), id=name) for name, settings in COVERED.items()]


def wide(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, classes))


def narrow(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, classes))


def cohort_of(algorithm: Algorithm, privacy: Privacy | None = STRONG, **options: int) -> Cohort:
    networks = NETWORKS.get(algorithm.name, ("cnn1", "mlp"))
    features = 16 if algorithm.name in ("lg-fedavg", "fedproto", "fedtgp", "fedgh") else 0
    return make_cohort(*networks, **options, features=features, privacy=privacy)


class Overheard:
    """An engine that keeps every report."""

    def __init__(self, engine: InProcess) -> None:
        self.engine = engine
        self.reports: list[dict[str, Report]] = []

    def exchange(self, outbox: Mapping[str, Order], admit: Admit) -> dict[str, Report]:
        self.reports.append(self.engine.exchange(outbox, admit))
        return self.reports[-1]


Outcome = tuple[list[RoundResult], dict[str, bytes | None], list[dict[str, bytes | None]]]


def run(algorithm: Algorithm, cohort: Cohort, rounds: int, workers: int = 1, stop_after: int = 0) -> Outcome:
    """Every round's result, every client's last state, and all that went up."""
    store, clients, results, sent = MemoryStore(), list(cohort.federation.clients), list[RoundResult](), []
    with Workers(cohort, workers) as crew:
        for last in (stop_after, rounds):
            engine = InProcess(algorithm, crew, store)
            overheard, progress = Overheard(engine), results[-1].progress if results else None
            schedule = Schedule(last, len(clients) - 1)
            results += federate(algorithm, overheard, engine.server_view, clients, schedule, cohort.seed, progress)
            sent += [{client: report.reply for client, report in one.items()} for one in overheard.reports]
    return results, {client: store.load(client) for client in clients}, sent


def test_the_table_says_of_every_method_whether_it_is_covered() -> None:
    assert {name for name, method in ALGORITHMS.items() if method.uncovered is None} == set(COVERED)
    assert {name for name, method in ALGORITHMS.items() if method.uncovered} == UNCOVERED
    assert Algorithm.uncovered  # a new method is refused until it says otherwise
    text = (Path(__file__).parents[1] / "docs" / "privacy.md").read_text()
    assert all(f"`{name}`" in text for name in ALGORITHMS)


def test_a_method_that_is_derived_from_a_covered_one_says_so_itself_or_is_refused() -> None:
    class Derived(FedAvg):
        pass

    class Stated(FedAvg):
        uncovered = None

    class Other(ALGORITHMS["fedtgp"]):
        pass

    assert FedAvg.uncovered is None
    assert Derived.uncovered == Algorithm.uncovered
    assert Stated.uncovered is None
    assert Other.uncovered == ALGORITHMS["fedtgp"].uncovered
    with pytest.raises(SettingError, match=r"does not cover fedavg: nobody has shown"):
        check(Derived(), cohort_of(FedAvg()))


@pytest.mark.parametrize("name", sorted(UNCOVERED))
def test_methods_that_are_not_covered_are_refused_with_the_reason(name: str) -> None:
    method = ALGORITHMS[name]()
    with pytest.raises(SettingError, match=rf"privacy.noise = 1.0: .* not cover {name}: {method.uncovered}. .*algorithm.name"):
        check(method, cohort_of(method))


def check(algorithm: Algorithm, cohort: Cohort, privacy: Privacy = STRONG) -> None:
    setup = Setup(cohort.networks, cohort.federation.public, cohort.training, 3)
    counts = {client: len(data.train) for client, data in cohort.federation.clients.items()}
    private_training(algorithm, setup, privacy, counts)


def hide_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let DP-SGD see nothing of any example, as under noise without end."""
    from opacus.optimizers import DPOptimizer

    def clip_and_accumulate(self: DPOptimizer) -> None:
        for weight in self.params:
            weight.summed_grad = torch.zeros_like(weight)

    monkeypatch.setattr(DPOptimizer, "clip_and_accumulate", clip_and_accumulate)


def with_other_examples(cohort: Cohort) -> Cohort:
    """The same cohort, whose clients hold as many other examples, of two classes only."""
    held = {
        client: ClientData(dataclasses.replace(separable(24, client, "other"), labels=torch.arange(24) % 2), data.test)
        for client, data in cohort.federation.clients.items()
    }
    return dataclasses.replace(cohort, federation=dataclasses.replace(cohort.federation, clients=held))


@pytest.mark.parametrize("algorithm", METHODS)
def test_nothing_but_clipped_and_noisy_gradients_tells_of_private_examples(
    algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = cohort_of(algorithm)
    check(algorithm, cohort)
    algorithm.check(Setup(cohort.networks, cohort.federation.public, cohort.training, 3))
    _, seen, sent_as_seen = run(algorithm, with_other_examples(cohort), 2)
    hide_gradients(monkeypatch)
    _, states, sent = run(algorithm, cohort, 3)
    _, other_states, other_sent = run(algorithm, with_other_examples(cohort), 3)
    assert states == other_states
    assert sent == other_sent
    assert seen != states  # which the examples do change where gradients are seen
    assert sent_as_seen[0] != sent[0] or algorithm.name in ("local", "local-public")


@pytest.mark.parametrize("name", ["pfedme", "fedproto", "fedtgp", "fedgh", "feddistill"])
def test_what_is_refused_would_tell_of_private_examples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = ALGORITHMS[name]()
    cohort = cohort_of(method)
    with pytest.raises(SettingError, match=f"does not cover {name}"):
        run(method, cohort, 1)  # whoever left out the check
    monkeypatch.setattr(type(method), "uncovered", None)
    hide_gradients(monkeypatch)
    _, states, sent = run(method, cohort, 1)
    _, other_states, other_sent = run(method, with_other_examples(cohort), 1)
    assert (states, sent) != (other_states, other_sent)
