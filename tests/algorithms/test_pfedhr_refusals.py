"""What pFedHR refuses, before any training or of an upload, in words."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from toy import make_cohort
from toy_uploads import NOTHING, SMALL, own_chain, uploads_of

from pfedhr.algorithm import SettingError, Setup
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.teacher import teacher_network
from pfedhr.data import Unlabelled
from pfedhr.in_process import Cohort, InProcess, Workers
from pfedhr.learning import Training
from pfedhr.models import ModelSpec
from pfedhr.parcel import ParcelError
from pfedhr.reassembly import (
    DecompositionError,
)
from pfedhr.zoo import ModelError


def setup_of(cohort: Cohort, active: int = 2) -> Setup:
    return Setup(cohort.networks, cohort.federation.public, cohort.training, active)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("groups", 1), ("candidates", 0), ("tuning_epochs", -1), ("probe", 1)),
        *(("temperature", 0.0), ("distil_weight", -0.1), ("stitch_layers", 0)),
    ],
)
def test_settings_out_of_range_are_named(setting: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"algorithm.{setting} = {value}"):
        PFedHR.paper(**{setting: value}).check(setup_of(make_cohort("mlp")))


def test_more_groups_than_layers_are_refused_before_training() -> None:
    cohort = make_cohort("cnn1", "cnn3")
    PFedHR.paper(groups=8).check(setup_of(cohort))
    with pytest.raises(SettingError, match=r"groups = 9.*8 blocks only.*at most 8"):
        PFedHR.paper(groups=9).check(setup_of(cohort))
    with pytest.raises(SettingError, match=r"groups = 5.*4 blocks only"):
        PFedHR.paper(groups=5, average_structures=True).check(setup_of(cohort))


def branching(shape: tuple[int, ...], classes: int) -> torch.nn.Module:
    class Branching(torch.nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    return Branching(torch.nn.Flatten(), torch.nn.Linear(64, classes))


def test_a_network_that_cannot_be_cut_is_refused_before_training() -> None:
    cohort = make_cohort(f"{__name__}:branching")
    with pytest.raises(DecompositionError, match=r"Remedies: keep forward.*; or choose a method .* such as fedmd") as refusal:
        PFedHR.paper(groups=2).check(setup_of(cohort))
    assert "decompose(" not in str(refusal.value)  # a run does not call it
    Local().check(setup_of(cohort))


def test_unlabelled_tuning_needs_images() -> None:
    setup = Setup({"a": ModelSpec("mlp", (12,), 3)}, Unlabelled(torch.zeros(5, 12)), Training(1, 8, 1e-3), 1)
    with pytest.raises(SettingError, match=r"public.labelled = false.*\(12,\)"):
        PFedHR.paper(groups=2).check(setup)
    PFedHR.paper(groups=2, tuning_epochs=0).check(setup)  # nothing to tune


@pytest.mark.parametrize(("channels", "brightest", "fits"), [(3, 255.0, False), (3, 1.0, True), (1, 255.0, True)])
def test_unlabelled_tuning_takes_colours_in_the_range_that_it_jitters_them_in(
    channels: int, brightest: float, fits: bool
) -> None:
    images = torch.zeros(5, channels, 4, 4)
    images[3, 0, 2, 1] = brightest
    setup = Setup({"a": ModelSpec("mlp", (channels, 4, 4), 3)}, Unlabelled(images), Training(1, 8, 1e-3), 1)
    with nullcontext() if fits else pytest.raises(SettingError, match=r"public.labelled = false.*\[-1, 1\].* from 0 to 255"):
        PFedHR.paper(groups=2).check(setup)


def test_weights_of_another_network_are_refused() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=2)
    uploads = uploads_of(cohort)
    swapped = replace(uploads["client00"], weights=uploads["client01"].weights)
    view = InProcess(SMALL, Workers(cohort)).server_view(1)
    with pytest.raises(ParcelError, match="the weights are not those of the blueprint"):
        SMALL.server_step(NOTHING, {**uploads, "client00": swapped}, view)


@pytest.mark.parametrize(("part", "message"), [("block1/..", "names that are none"), ("other", "no such part")])
def test_a_teacher_of_parts_that_do_not_fit_is_refused(part: str, message: str) -> None:
    teacher = own_chain(make_cohort("mlp", clients=1), "client00")
    renamed = {part if name == "block1" else name: blueprint for name, blueprint in teacher.parts.items()}
    with pytest.raises(ParcelError, match=message):
        teacher_network(replace(teacher, parts=renamed))


def test_public_data_that_leave_a_batch_of_one_are_refused_before_training() -> None:
    cohort = make_cohort("toy:normed")
    PFedHR.paper(groups=2, tuning_batch_size=8).check(setup_of(cohort))
    with pytest.raises(ModelError, match=r"tuning_batch_size and the public data: 16 examples in batches of 5 leave"):
        PFedHR.paper(groups=2, tuning_batch_size=5).check(setup_of(cohort))
    PFedHR.paper(groups=2, tuning_batch_size=5, tuning_epochs=0).check(setup_of(cohort))
