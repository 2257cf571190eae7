from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from flower.postbox import Postbox, experiment_of
from methods import METHODS, suited
from toy import equal

from pfedhr.algorithm import Algorithm
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.own import Nothing
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.data import Examples
from pfedhr.experiment import PrivacyOptions
from pfedhr.experiment_file import dump
from pfedhr.flower.errands import RollCall, present


@pytest.mark.parametrize("algorithm", METHODS)
def test_only_methods_that_use_public_data_at_clients_ask_clients_for_it(algorithm: Algorithm, tmp_path: Path) -> None:
    cohort = suited(algorithm, "cnn1", "cnn2")
    one = Postbox(cohort, tmp_path).participants[100]
    assert isinstance(one.public, Examples)
    without = replace(one, public=Examples(one.public.inputs[:0], one.public.labels[:0]))
    call = RollCall(dump(experiment_of(algorithm, cohort)))
    used = "at clients" in algorithm.public_use(labelled=True)
    assert present(one, call).problem == ""
    assert ("needs public data" in present(without, call).problem) is used
    assert (present(without, call).problem != "") is used


def test_a_shallow_network_is_welcome_where_a_round_of_such_has_blocks_enough(tmp_path: Path) -> None:
    cohort = suited(PFedHR.paper(groups=3), "mlp")
    one = Postbox(cohort, tmp_path).participants[100]
    problems = [present(one, RollCall(dump(experiment_of(PFedHR.paper(groups=count), cohort)))).problem for count in (12, 100)]
    assert problems[0] == ""
    assert "a round of 4 clients may have" in problems[1]


def test_a_client_draws_its_noise_from_a_number_that_only_it_knows(tmp_path: Path) -> None:
    cohort = suited(Local(), "mlp", clients=2)
    one = Postbox(cohort, tmp_path).participants[100]
    plain = experiment_of(Local(), cohort)
    experiment = replace(plain, privacy=PrivacyOptions(noise=1.0))
    assert one.view(plain, 1).privacy is None
    assert not (one.folder / "secret").exists()
    views = [one.view(experiment, 1), replace(one, secret=7).view(experiment, 1), replace(one, secret=8).view(experiment, 1)]
    views += [one.view(experiment, 1), replace(one, folder=tmp_path / "other").view(experiment, 1)]
    trained = [Local().client_step(Local().init_client(view), Nothing(), view)[0].weights for view in views]
    assert equal(trained[0], trained[3])
    assert not any(equal(trained[0], other) for other in (trained[1], trained[2], trained[4]))
    assert not equal(trained[1], trained[2])
    seeded = (
        Local()
        .client_step(
            Local().init_client(cohort.client_view("client00", 1)),
            Nothing(),
            replace(cohort.client_view("client00", 1), privacy=experiment.privacy.privacy),
        )[0]
        .weights
    )
    assert equal(
        seeded,
        Local()
        .client_step(Local().init_client(views[1]), Nothing(), replace(one, secret=cohort.seed).view(experiment, 1))[0]
        .weights,
    )
    assert (one.folder / "secret").stat().st_mode & 0o077 == 0
