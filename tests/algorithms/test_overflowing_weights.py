"""Weights that are finite and so large that what is computed of them is not: they cost the run nothing but what is theirs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from methods import suited
from spoilt import Spoil, Tapped, floats, run
from torch import Tensor
from toy import equal, make_cohort
from toy_uploads import uploads_of

from pfedhr.algorithm import Algorithm, Metrics
from pfedhr.algorithms.feddf import FedDF
from pfedhr.algorithms.fedkemf import FedKEMF
from pfedhr.algorithms.pfedclub import PFedClub
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.uploads import Upload
from pfedhr.data import Public
from pfedhr.in_process import Cohort, Workers, sequential
from pfedhr.parcel import Tensors, unpack

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


def first_step(algorithm: PFedHR | FedDF, cohort: Cohort, sent: dict[str, Upload]) -> tuple[Any, Metrics]:
    view = sequential(lambda map: cohort.server_view(1, map))
    return algorithm.server_step(algorithm.init_server(view), sent, view)


@pytest.mark.parametrize(
    "algorithm",
    [
        pytest.param(PFedHR(tuning_epochs=1, tuning_batch_size=8), id="structure"),
        pytest.param(FedDF(tuning_epochs=1, tuning_batch_size=8), id="feddf"),
    ],
)
def test_statistics_that_overflow_while_tuning_reach_nobody(
    algorithm: PFedHR | FedDF, caplog: pytest.LogCaptureFixture
) -> None:
    """Divided by an infinite variance, activations are 0 and all that a network says is finite."""
    cohort = make_cohort("cnn4-quarter", clients=2)
    sent = uploads_of(cohort)
    weights = sent["client00"].weights
    first = next(name for name, value in weights.items() if value.dim() == 4)
    huge = {**weights, first: weights[first] * 1e21}
    sent["client00"] = replace(sent["client00"], weights=huge)
    server, _ = first_step(algorithm, cohort, sent)
    assert "running_var is no longer finite" in caplog.text
    view = cohort.client_view("client01", 2)
    message = algorithm.message(server, "client01")
    own, reply, _ = algorithm.client_step(algorithm.init_client(view), message, view)
    assert all(value.isfinite().all() for value in own.weights.values())
    assert all(value.isfinite().all() for value in reply.weights.values())


def test_solved_stitches_that_are_not_finite_teach_nobody() -> None:
    algorithm = PFedHR.paper(groups=3, candidates=4, **{**SMALL, "tuning_epochs": 0}, **SOLVED)
    cohort = make_cohort("mlp", "cnn1", clients=3)
    sent = uploads_of(cohort)
    sent["client00"] = replace(sent["client00"], weights=overflowing_on_one(sent["client00"].weights, cohort.federation.public))
    server, metrics = first_step(algorithm, cohort, sent)
    assert metrics["candidates"] > 0
    assert all(value.isfinite().all() for made in server.made.values() for value in made.weights.values())


def overflowing_on_one(weights: Tensors, public: Public) -> Tensors:
    """Weights of a perceptron that overflow on the third public example, not on the two that uploads are tried on."""
    inputs = public.ready(torch.device("cpu")).inputs.flatten(1)
    away = inputs[2] - inputs[0]
    at = inputs @ away
    threshold = torch.maximum(at[0], at[1]) / 2 + at[2] / 2
    changed = {name: value.clone() for name, value in weights.items()}
    first, second = [name for name in changed if changed[name].dim() == 2][:2]
    bias = next(name for name in changed if changed[name].dim() == 1)
    changed[first][0], changed[bias][0], changed[second][0, 0] = away * 1e25, -threshold * 1e25, 1e25
    return changed
