from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from flower.postbox import Postbox, experiment_of
from methods import METHODS, suited

from pfedhr.algorithm import Algorithm
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.data import Examples
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
    cohort = suited(PFedHR(groups=3), "mlp")
    one = Postbox(cohort, tmp_path).participants[100]
    problems = [present(one, RollCall(dump(experiment_of(PFedHR(groups=count), cohort)))).problem for count in (12, 100)]
    assert problems[0] == ""
    assert "a round of 4 clients may have" in problems[1]
