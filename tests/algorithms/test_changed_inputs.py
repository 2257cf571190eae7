"""Networks whose forward() changes what it takes in place: the examples are not theirs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from methods import METHODS, suited
from torch import Tensor, nn
from toy_rounds import run

from pfedhr.algorithm import Algorithm
from pfedhr.algorithms.pfedbayes import PFedBayes
from pfedhr.data import ClientData, Examples, ready
from pfedhr.federate import Schedule
from pfedhr.heads import Extractor
from pfedhr.in_process import Cohort
from pfedhr.inference import predict
from pfedhr.models import ModelSpec, build, check_last_batch, check_network
from pfedhr.parcel import pack


class Shifting(nn.Module):
    """Takes a half from its inputs, in place or not."""

    def __init__(self, classes: int, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.first, self.second, self.head = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, classes)

    def forward(self, images: Tensor) -> Tensor:
        if self.in_place:
            images -= 0.5
        else:
            images = images - 0.5
        return self.head(torch.relu(self.second(torch.relu(self.first(images.flatten(1))))))


def changing(shape: tuple[int, ...], classes: int) -> nn.Module:
    return Shifting(classes, in_place=True)


def unchanging(shape: tuple[int, ...], classes: int) -> nn.Module:
    return Shifting(classes, in_place=False)


def floats(examples: Examples) -> Examples:
    """Examples that networks take as they are, and not as a copy."""
    return Examples(ready(examples.inputs, torch.device("cpu")), examples.labels)


def on_floats(algorithm: Algorithm, factory: str) -> Cohort:
    cohort = suited(algorithm, f"{__name__}:{factory}", clients=2)
    clients = {name: ClientData(floats(data.train), floats(data.test)) for name, data in cohort.federation.clients.items()}
    federation = dataclasses.replace(cohort.federation, clients=clients, public=floats(cohort.federation.public))
    return dataclasses.replace(cohort, federation=federation)


FITTING = [method for method in METHODS if method.id != "heterofl"]  # which slices CNN4 alone


@pytest.mark.parametrize("algorithm", [*FITTING, pytest.param(PFedBayes(samples=2), id="pfedbayes-two-samples")])
def test_a_network_may_change_its_inputs_in_place_and_the_data_stay(algorithm: Algorithm) -> None:
    cohort = on_floats(algorithm, "changing")
    before = pack(cohort.federation)
    found, _ = run(algorithm, cohort, Schedule(2, 2))
    assert pack(cohort.federation) == before
    expected, _ = run(algorithm, on_floats(algorithm, "unchanging"), Schedule(2, 2))
    assert [result.scores for result in found] == [result.scores for result in expected]
    assert [losses(result.clients) for result in found] == [losses(result.clients) for result in expected]


def losses(clients: dict[str, dict[str, float]]) -> dict[str, float]:
    return {client: metrics["loss"] for client, metrics in clients.items() if "loss" in metrics}


def test_checks_and_predictions_leave_what_they_are_tried_on() -> None:
    spec, inputs = ModelSpec(f"{__name__}:changing", (1, 8, 8), 4), torch.rand(2, 1, 8, 8)
    before = inputs.clone()
    check_network(spec, inputs)
    check_last_batch(spec, inputs, 5, 4, "here")
    Extractor(build(spec, 0), 4).check(inputs)
    predict(build(spec, 0), inputs)
    assert torch.equal(inputs, before)
