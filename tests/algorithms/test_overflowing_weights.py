"""Weights that are finite and so large that what is computed of them is not: they cost the run nothing but what is theirs."""

from __future__ import annotations

from typing import Any

import pytest
from algorithms.test_refused_replies import Spoil, Tapped, floats, run
from methods import suited
from torch import Tensor
from toy import equal

from pfedhr.algorithm import Algorithm
from pfedhr.algorithms.feddf import FedDF
from pfedhr.algorithms.fedkemf import FedKEMF
from pfedhr.algorithms.pfedclub import PFedClub
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.in_process import Workers
from pfedhr.parcel import unpack

SMALL = {"tuning_epochs": 1, "tuning_batch_size": 8, "probe": 8}
SOLVED = {"stitch_start": "solved", "tuning_targets": "cohort"}


def huge_bias(tree: Any, tensors: dict[str, Tensor]) -> None:
    """The logits stay finite, the losses do not."""
    tensors[[name for name in sorted(floats(tensors)) if name.endswith("bias")][-1]].view(-1)[-1] = 3e38


def all_huge(tree: Any, tensors: dict[str, Tensor]) -> None:
    for name in floats(tensors):
        tensors[name] *= 1e10


@pytest.mark.parametrize(
    ("algorithm", "spoil"),
    [
        pytest.param(PFedHR(**SMALL), huge_bias, id="structure"),
        pytest.param(PFedHR(**SMALL, teachers="own"), huge_bias, id="own"),
        pytest.param(PFedHR.paper(groups=3, candidates=3, **SMALL), huge_bias, id="paper"),
        pytest.param(
            PFedHR.paper(groups=3, candidates=3, **SMALL, stitch_start="solved", tuning_targets="cohort"),
            huge_bias,
            id="solved",
        ),
        pytest.param(PFedClub(groups=3, candidates=2, tuning_epochs=1, probe=8), huge_bias, id="pfedclub"),
        pytest.param(FedKEMF("mlp", tuning_epochs=1, tuning_batch_size=8), all_huge, id="fedkemf"),
        # No structure's first training is finite, so that the server has none of it to give.
        pytest.param(FedDF(tuning_epochs=1, tuning_learning_rate=1e38), huge_bias, id="feddf"),
    ],
)
def test_one_clients_huge_weights_end_the_run_for_nobody(algorithm: Algorithm, spoil: Spoil) -> None:
    cohort = suited(algorithm, "cnn1", "mlp", clients=3)
    with Workers(cohort) as workers:
        engine = Tapped(algorithm, workers)
        engine.spoil = spoil
        results, states = run(algorithm, cohort, engine)
    assert [result.round for result in results] == [1, 2]
    assert not results[0].refused
    assert all(states.values())


def test_a_common_network_learns_from_those_whose_logits_are_finite(caplog: pytest.LogCaptureFixture) -> None:
    algorithm = FedKEMF("mlp", tuning_epochs=1, tuning_batch_size=8)
    cohort = suited(algorithm, "cnn1", "mlp", clients=3)
    with Workers(cohort) as workers:
        engine = Tapped(algorithm, workers)
        run(algorithm, cohort, engine, rounds=1)
        engine.spoil = all_huge
        spoilt, _ = run(algorithm, cohort, engine, rounds=1)
        view = engine.server_view(1)
    taken = {client: unpack(algorithm.reply_type, reply) for client, reply in engine.replies.items() if client != "client01"}
    expected, metrics = algorithm.server_step(algorithm.init_server(view), taken, view)
    found = unpack(algorithm.server_state, spoilt[0].progress.server)
    assert equal(found.weights, expected.weights)
    assert metrics["distil_loss"] == spoilt[0].server["distil_loss"]
    assert "client01's network are not finite" in caplog.text
    nobody = {"client01": unpack(algorithm.reply_type, engine.replies["client01"])}
    assert algorithm.server_step(expected, nobody, view)[0] is expected
