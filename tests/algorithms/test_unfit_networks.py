"""An uploaded network that cannot be run, cut or trained refuses its reply alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from methods import suited
from torch import Tensor, nn
from toy import make_cohort

from pfedhr.algorithm import Algorithm, ServerView, Setup
from pfedhr.algorithms import admission
from pfedhr.algorithms.admission import unfit
from pfedhr.algorithms.feddf import FedDF
from pfedhr.algorithms.pfedclub import PFedClub
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.private import initial_weights
from pfedhr.algorithms.uploads import Upload, upload
from pfedhr.data import Examples
from pfedhr.in_process import InProcess, Workers, sequential
from pfedhr.reassembly import describe


def test_a_network_for_other_inputs_or_classes_is_refused() -> None:
    algorithm = PFedHR.paper(groups=2, candidates=2, tuning_epochs=0)
    cohort = suited(algorithm, "mlp", clients=2)
    view = InProcess(algorithm, Workers(cohort)).server_view(1)
    server = algorithm.init_server(view)

    def upload_of(classes: int) -> Upload:
        network = dataclasses.replace(cohort.networks["client00"], classes=classes)
        seen = dataclasses.replace(cohort.client_view("client00", 1), network=network)
        return algorithm.client_step(algorithm.init_client(seen), algorithm.message(server, "client00"), seen)[1]

    assert algorithm.faults(server, {"a": upload_of(4), "b": upload_of(5)}, view).keys() == {"b"}
    three = dataclasses.replace(view, classes=3)
    assert "leads from float32 (1, 8, 8) to (4,)" in algorithm.faults(server, {"a": upload_of(4)}, three)["a"]


class Sized(nn.Module):
    """A network for VIEW that meets the batch size with `trap`."""

    def __init__(self, trap: Callable[[Any], Any]) -> None:
        super().__init__()
        self.body, self.head, self.trap = nn.Linear(4, 8), nn.Linear(8, 3), trap

    def forward(self, features: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(features))) + self.trap(features.size(0))


def sized(trap: Callable[[Any], Any]) -> Upload:
    network = Sized(trap)
    described = describe(network, torch.zeros(2, 4))
    return Upload(described.blueprint.hash, described.blueprint, described.weights(network), 10)


VIEW = sequential(
    lambda map: ServerView(Examples(torch.randn(100, 4), torch.arange(100) % 3), 3, False, 1, 0, torch.device("cpu"), map)
)


@pytest.mark.parametrize(
    ("trap", "reason"),
    [
        (lambda n: 4 // (n - 1), "cannot run on a batch of 1: ZeroDivisionError"),
        (lambda n: 4 // (n - 36), "cannot run on a batch of 36: ZeroDivisionError"),
        (lambda n: torch.zeros((n - 2) * (n - 3) * (n - 1) * (64 - n) * 2**20).sum(), "in a batch of 36"),
        (lambda n: torch.zeros(n * n * n * n * n * n).sum(), f"numbers, more than {2**28}"),
        (lambda n: torch.zeros(n * n * n * n * n * n * n * n * n * n * n * n * n * n * n * n).sum(), "smaller whole one"),
        (lambda n: 4 // (n - 32), "cannot run on a batch of 32: ZeroDivisionError"),
    ],
)
def test_a_network_that_fails_at_a_batch_size_that_the_server_uses_is_refused_alone(trap: Any, reason: str) -> None:
    """Of 100 examples predict takes 64 and 36, and tuning 32 and 4."""
    sent = {"a": sized(lambda n: 0), "b": sized(trap), "c": sized(lambda n: torch.zeros(n, 1))}
    found = unfit(sent, {}, 0, VIEW, tuned_in=32)
    assert found.keys() == {"b"}
    assert reason in found["b"]


@pytest.mark.parametrize(
    "algorithm",
    [
        PFedHR.paper(groups=2, tuning_epochs=0, tuning_batch_size=5),
        FedDF(tuning_epochs=0, tuning_batch_size=5),
        PFedClub(groups=2, tuning_batch_size=5),
    ],
    ids=lambda algorithm: algorithm.name,
)
def test_a_server_that_trains_no_blocks_takes_networks_that_its_batches_could_not_train(algorithm: Algorithm) -> None:
    """Of 16 public examples batches of five leave one."""
    cohort = make_cohort("toy:normed", clients=2)
    algorithm.check(Setup(cohort.networks, cohort.federation.public, cohort.training, 2))
    view = InProcess(algorithm, Workers(cohort)).server_view(1)
    server, sent = algorithm.init_server(view), {}
    for client in cohort.networks:
        seen = cohort.client_view(client, 1)
        _, sent[client], _ = algorithm.client_step(algorithm.init_client(seen), algorithm.message(server, client), seen)
    assert algorithm.faults(server, sent, view) == {}


def test_without_public_examples_no_batch_of_them_is_tried() -> None:
    view = dataclasses.replace(VIEW, public=Examples(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)))
    assert unfit({"a": sized(lambda n: 4 // n)}, {}, 0, view) == {}


def test_whatever_a_network_raises_refuses_that_reply_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(network: nn.Module, inputs: Tensor) -> Tensor:
        raise error

    monkeypatch.setattr(admission, "predict", fails)
    for error in (
        ZeroDivisionError("a"),
        TypeError("b"),
        ValueError("c"),
        AttributeError("d"),
        MemoryError(),
        RecursionError(),
    ):
        (told,) = unfit({"a": sized(lambda n: 0)}, {}, 0, VIEW).values()
        assert type(error).__name__ in told


def test_a_network_whose_hidden_layer_is_huge_and_whose_logits_are_not_ends_no_round() -> None:
    algorithm = PFedHR.paper(groups=4, candidates=2, tuning_epochs=1)
    cohort = suited(algorithm, "mlp", "cnn1", clients=2)
    view = InProcess(algorithm, Workers(cohort)).server_view(1)
    sent: dict[str, Upload] = {}
    for client in cohort.networks:
        seen = cohort.client_view(client, 1)
        weights = initial_weights(seen)
        if client == "client00":
            (first, bias), (second, _) = [list(weights)[at : at + 2] for at in (0, 2)]
            weights |= {first: weights[first] * 1e20, bias: weights[bias] * 1e20, second: weights[second] * 1e-20}
        sent[client] = upload(seen.network, weights, seen.train.ready(seen.device).inputs, ())
    server = algorithm.init_server(view)
    assert algorithm.faults(server, sent, view) == {}
    algorithm.server_step(server, sent, view)
