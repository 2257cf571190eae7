"""A reply that is well packed and makes no sense is refused alone, in every method, and its client stays as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
import torch
from methods import METHODS, suited
from spoilt import SPOILT, Tapped, not_a_number, of_size, run, spoilt
from toy import equal

from pfedhr.algorithm import Algorithm
from pfedhr.algorithms import ALGORITHMS
from pfedhr.algorithms.admission import improbable
from pfedhr.algorithms.held import Shared
from pfedhr.algorithms.homogeneous import Trained
from pfedhr.algorithms.own import Nothing
from pfedhr.federate import Admission
from pfedhr.in_process import InProcess, Workers
from pfedhr.parcel import pack
from pfedhr.transport import Admit, Order, Report

TELLING = [method for method in METHODS if method.values[0].reply_type is not Nothing]
"""What says nothing cannot be spoilt."""


class Deaf(InProcess):
    """The engine that does not ask one client in the first round."""

    def exchange(self, outbox: Mapping[str, Order], admit: Admit) -> dict[str, Report]:
        asked = {client: order for client, order in outbox.items() if client != "client01" or order.round > 1}
        return super().exchange(asked, admit)


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("algorithm", TELLING)
def test_a_reply_of_no_use_is_refused_alone(algorithm: Algorithm, rounds: int) -> None:
    """In the first round, when the server knows nothing yet, and later."""
    cohort = suited(algorithm, "cnn1", "mlp", clients=3)
    engine = Tapped(algorithm, Workers(cohort))
    run(algorithm, cohort, engine, rounds)
    assert not engine.admit(engine.replies)
    tried = 0
    for spoil in SPOILT:
        replies = engine.replies | {"client01": spoilt(engine.replies["client01"], spoil)}
        if replies != engine.replies:
            tried += 1
            assert engine.admit(replies).keys() == {"client01"}, spoil.__name__
    assert tried >= 6


@pytest.mark.parametrize("algorithm", TELLING)
def test_a_refused_reply_is_as_if_its_client_had_not_been_asked(algorithm: Algorithm) -> None:
    cohort = suited(algorithm, "cnn1", "mlp", clients=3)
    with Workers(cohort) as workers:
        expected, states = run(algorithm, cohort, Deaf(algorithm, workers))
        engine = Tapped(algorithm, workers)
        engine.spoil = not_a_number
        results, states_after = run(algorithm, cohort, engine)
    assert [set(result.refused) for result in results] == [{"client01"}, set()]
    assert [result.progress.server for result in results] == [result.progress.server for result in expected]
    assert states_after == states


def test_the_reason_is_told_in_words(caplog: pytest.LogCaptureFixture) -> None:
    algorithm = ALGORITHMS["fedavg"]()
    cohort = suited(algorithm, "mlp", clients=3)
    with Workers(cohort) as workers:
        engine = Tapped(algorithm, workers)
        engine.spoil = not_a_number
        results, _ = run(algorithm, cohort, engine)
    assert results[0].refused == {"client01": "it holds values that are not finite"}
    assert "the reply of client client01 in round 1 is refused: it holds values that are not finite" in caplog.text


def test_the_form_that_most_clients_send_is_the_one_that_counts_before_there_is_a_shared_one() -> None:
    """Even where the odd one is the first by name."""
    algorithm = ALGORITHMS["fedavg"]()
    cohort = suited(algorithm, "mlp", clients=3)
    engine = InProcess(algorithm, Workers(cohort))
    view, server = engine.server_view(1), algorithm.init_server(engine.server_view(0))
    replies = {}
    for client in cohort.networks:
        seen = cohort.client_view(client, 1)
        _, replies[client], _ = algorithm.client_step(algorithm.init_client(seen), algorithm.message(server, client), seen)
    odd = {name: value.double() for name, value in replies["client00"].weights.items()}
    replies["client00"] = dataclasses.replace(replies["client00"], weights=odd)
    assert algorithm.faults(server, replies, view).keys() == {"client00"}


def test_minus_infinity_has_its_place_in_masks() -> None:
    algorithm = ALGORITHMS["fedavg"]()
    cohort = suited(algorithm, "mlp", clients=1)
    view, server = InProcess(algorithm, Workers(cohort)).server_view(1), Shared(None)
    weights = {"mask": torch.tensor([0.0, -torch.inf]), "none": torch.zeros(0), "count": torch.tensor(3)}
    admission = Admission(algorithm, server, view)
    assert not admission({"client00": pack(Trained(weights, 5))})
    assert equal(admission.taken["client00"].weights, weights)
    for value in (torch.inf, torch.nan):
        for dtype in (torch.float16, torch.bfloat16, torch.float8_e5m2):
            broken = {"mask": torch.tensor([0.0, value]).to(dtype)}
            assert admission({"client00": pack(Trained(broken, 5))})
            assert not admission.taken


OUTPUTS = [method for method in TELLING if method.id in ("fedmd", "fccl", "fedproto", "fedproto-nearest", "fedtgp", "fedgh")]
"""What sends what networks give, not networks."""


@pytest.mark.parametrize("size", [3e38, -3e38, 1e16, 9e14, -9e14])
@pytest.mark.parametrize("algorithm", [*OUTPUTS, pytest.param(ALGORITHMS["feddistill"](), id="feddistill")])
def test_finite_outputs_of_which_nothing_finite_can_be_computed_end_no_run(algorithm: Algorithm, size: float) -> None:
    cohort = suited(algorithm, "cnn1", "mlp", clients=3)
    with Workers(cohort) as workers:
        engine = Tapped(algorithm, workers)
        engine.spoil = of_size(size)
        results, _ = run(algorithm, cohort, engine)
    admitted = abs(size) < 1e15 and algorithm.name != "feddistill"
    assert [set(result.refused) for result in results] == [set() if admitted else {"client01"}, set()]


@pytest.mark.parametrize("row", [(0.5, 0.6), (1.5, -0.5), (0.2, 0.2)])
def test_outputs_that_are_no_probabilities_are_refused(row: tuple[float, float]) -> None:
    told = improbable({"right": torch.tensor([[0.25, 0.75], [1.0, 0.0]]), "wrong": torch.tensor([[0.5, 0.5], row])})
    assert told == {"wrong": "its outputs are not probabilities, from 0 to 1 and 1 in sum"}
