"""Federations across families of networks: on images, on text, on measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from toy import make_cohort, tones

from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.teacher import teacher_network
from pfedhr.experiment import Experiment
from pfedhr.experiment_file import load_experiment
from pfedhr.federate import Schedule, federate
from pfedhr.in_process import Cohort, InProcess, Workers
from pfedhr.launch import prepare, start
from pfedhr.parcel import unpack


def small(preset: str, rounds: int = 1) -> Experiment:
    whole = load_experiment(preset)
    plan = replace(whole.plan, rounds=rounds, local_epochs=1)
    algorithm = replace(whole.algorithm, candidates=4, tuning_epochs=1)
    return replace(whole, data=replace(whole.data, examples=1200), plan=plan, algorithm=algorithm, workers=1)


def families(cohort: Cohort, algorithm: PFedHR) -> list[set[str]]:
    """Run one round; return for each teacher that waits which networks its blocks are of, once it has been run."""
    clients = list(cohort.networks)
    engine = InProcess(algorithm, Workers(cohort))
    (result,) = federate(algorithm, engine, engine.server_view, clients, Schedule(1, len(clients)), cohort.seed)
    server = unpack(algorithm.server_state, result.progress.server)
    assert set(server.waiting) == set(clients)
    probe = cohort.federation.public.ready(torch.device("cpu")).inputs[:3]
    for teacher in server.made.values():
        assert teacher_network(teacher)(probe).shape == (3, cohort.federation.classes)
    return [{cohort.networks[owner].factory for owner in teacher.recipe.owners} for teacher in server.made.values()]


@pytest.mark.parametrize("preset", ["text-families", "tabular-families"])
def test_teachers_are_made_across_families(preset: str) -> None:
    experiment = small(preset)
    assert isinstance(experiment.algorithm, PFedHR)
    made = families(prepare(experiment), experiment.algorithm)
    assert any(len(factories) > 1 for factories in made)


def test_teachers_are_made_of_convolutions_and_attention() -> None:
    cohort = make_cohort("cnn2", "resnet", "mobilenet", "vit", clients=4)
    made = families(cohort, PFedHR.paper(groups=3, candidates=12, tuning_epochs=0, most_blocks=6, probe=16))
    assert any("vit" in factories and len(factories) > 1 for factories in made)


@pytest.mark.parametrize("start", ["random", "solved"])
def test_stitches_between_networks_for_signals_learn_over_channels_and_never_over_time(
    start: Literal["random", "solved"],
) -> None:
    cohort = make_cohort("toy:convolutional", "toy:recurrent", examples=tones)
    algorithm = PFedHR.paper(groups=3, candidates=8, tuning_epochs=1, probe=16, stitch_start=start)
    engine = InProcess(algorithm, Workers(cohort))
    results = list(federate(algorithm, engine, engine.server_view, list(cohort.networks), Schedule(2, 4), cohort.seed))
    assert len(results) == 2
    server = unpack(algorithm.server_state, results[-1].progress.server)
    probe = cohort.federation.public.inputs
    lengths, widths, owners = {37, 35, 17, 15}, set[int](), set[str]()
    for teacher in server.made.values():
        network = teacher_network(teacher).eval()
        assert network(probe).shape == (16, 4)
        owners |= {cohort.networks[owner].factory for owner in teacher.recipe.owners}
        stitches = [value for name, value in network.named_parameters() if name.startswith("stitch")]
        widths |= {size for value in stitches for size in value.shape}
    assert owners == {"toy:convolutional", "toy:recurrent"}
    assert widths
    assert not widths & lengths


class Quiet:
    """Watches nothing."""

    def begin(self, label: str, rounds: int, done: int) -> None: ...

    def end_round(self, label: str, record: Mapping[str, Any]) -> None: ...


def test_a_run_on_text_is_the_same_in_two_processes(tmp_path: Path) -> None:
    experiment = small("text-families", rounds=2)
    alone = start(experiment, tmp_path / "one", Quiet())
    assert start(replace(experiment, workers=2), tmp_path / "two", Quiet()) == alone
    assert any(one.teacher_accuracy is not None for one in alone)
