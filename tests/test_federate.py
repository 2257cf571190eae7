from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from toy import make_cohort

from pfedhr.algorithm import Metrics, ServerView
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.own import Nothing
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.federate import Schedule, federate, select
from pfedhr.in_process import Cohort, InProcess, Workers
from pfedhr.learning import Training, TrainingError
from pfedhr.parcel import pack, unpack
from pfedhr.processes import WorkerError
from pfedhr.reassembly.vocabulary import registered
from pfedhr.transport import Admit, Order, Report
from pfedhr.zoo import ModelError

CLIENTS = [f"client{number:02}" for number in range(10)]


def test_a_selection_has_a_name_and_the_right_size() -> None:
    chosen = [select(CLIENTS, 4, 0, round) for round in range(1, 201)]
    assert all(len(set(active)) == 4 and list(active) == sorted(active) for active in chosen)
    assert chosen == [select(CLIENTS, 4, 0, round) for round in range(1, 201)]
    assert len(set(chosen)) > 50
    counts = [sum(client in active for active in chosen) for client in CLIENTS]
    # 200 rounds, 4 of 10: 80 each, deviation sqrt(200 * 0.4 * 0.6) = 6.9
    assert all(abs(count - 80) < 5 * 6.9 for count in counts)


class Recording(InProcess):
    """An engine that keeps what it was asked for."""

    def exchange(self, outbox: Mapping[str, Order], admit: Admit) -> dict[str, Report]:
        self.__dict__.setdefault("asked", []).append(dict(outbox))
        return super().exchange(outbox, admit)


def recorded(schedule: Schedule) -> tuple[list[dict[str, Order]], list]:
    cohort = make_cohort("mlp", clients=6)
    algorithm = Local()
    engine = Recording(algorithm, Workers(cohort))
    results = list(federate(algorithm, engine, engine.server_view, list(cohort.networks), schedule, 0))
    return engine.asked, results


def test_only_clients_that_changed_are_evaluated_again() -> None:
    asked, results = recorded(Schedule(3, 2))
    for orders, result in zip(asked, results, strict=True):
        assert {client for client, order in orders.items() if order.message is not None} == set(result.active)
    assert set(asked[0]) == set(results[0].scores)  # all of them the first time
    assert len(asked[0]) == 6
    assert all(set(orders) == set(result.active) for orders, result in zip(asked[1:], results[1:], strict=True))
    assert all(len(result.scores) == 6 for result in results)


def test_evaluations_are_spaced_and_the_last_round_is_always_evaluated() -> None:
    asked, results = recorded(Schedule(5, 2, evaluate_every=3))
    assert [result.evaluated for result in results] == [False, False, True, False, True]
    assert [any(order.evaluate for order in orders.values()) for orders in asked] == [False, False, True, False, True]
    assert results[0].scores == {}
    assert len(results[2].scores) == 6
    changed = set(results[3].active) | set(results[4].active)
    assert {client for client, order in asked[4].items() if order.evaluate} == changed
    every, _ = recorded(Schedule(5, 2))
    spaced_last, every_last = results[-1].scores, recorded(Schedule(5, 2))[1][-1].scores
    assert spaced_last == every_last
    assert len(every) == 5


def test_bytes_are_those_of_the_parcels() -> None:
    asked, results = recorded(Schedule(1, 3))
    assert results[0].bytes_down == sum(len(order.message) for order in asked[0].values() if order.message)
    assert results[0].bytes_up == 3 * len(pack(Nothing()))


def end_abruptly(cohort: object) -> None:
    os._exit(1)


def test_a_worker_that_ends_is_told_in_words() -> None:
    with Workers(make_cohort("mlp"), 2) as workers, pytest.raises(WorkerError, match="worker process ended"):
        list(workers.run(end_abruptly, [(), ()]))


def known_layers(cohort: Cohort) -> list[str]:
    return [name for name in registered if name == "Scaled"]


@pytest.mark.parametrize("count", [1, 2])
def test_every_process_knows_the_layers_that_a_users_module_registers(count: int) -> None:
    """A teacher may hold them where nobody has built the network that they are from."""
    with Workers(make_cohort("toy_layers:network", "mlp"), count) as workers:
        workers.cohort.build_networks()  # as all that is checked before a run does
        assert list(workers.run(known_layers, [()] * 4)) == [["Scaled"]] * 4


def repeats_itself(cohort: Cohort) -> tuple[int, bool]:
    return torch.get_num_threads(), torch.backends.cudnn.deterministic


@pytest.mark.parametrize("count", [1, 2])
def test_sums_come_in_one_order_in_every_process(count: int) -> None:
    before = torch.get_num_threads(), torch.backends.cudnn.deterministic
    with Workers(make_cohort("mlp"), count) as workers:
        assert list(workers.run(repeats_itself, [()] * 2)) == [(1, True)] * 2
    assert (torch.get_num_threads(), torch.backends.cudnn.deterministic) == before


class Peculiar(Exception):
    """An error that cannot be carried to another process."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def fail(cohort: object) -> None:
    raise Peculiar("left", "right")


def test_what_fails_in_a_worker_is_told_as_it_was() -> None:
    with Workers(make_cohort("mlp"), 2) as workers, pytest.raises(WorkerError, match=r"Peculiar: leftright"):
        list(workers.run(fail, [(), ()]))


def test_a_loss_that_is_not_finite_names_client_and_round() -> None:
    cohort = make_cohort("mlp", clients=2)
    broken = dataclasses.replace(cohort, training=Training(1, 8, learning_rate=1e30))
    for workers in (1, 2):
        with Workers(broken, workers) as crew:
            engine = InProcess(Local(), crew)
            rounds = federate(Local(), engine, engine.server_view, list(cohort.networks), Schedule(5, 2), 0)
            with pytest.raises(TrainingError, match=r"client client0\d \(mlp\) in round \d: the loss is (nan|inf)"):
                list(rounds)


def test_a_tuning_that_is_not_finite_names_recipe_and_round_and_does_not_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    algorithm = PFedHR.paper(groups=2, candidates=2, tuning_epochs=3, tuning_learning_rate=1e30, probe=8)
    with Workers(make_cohort("mlp", clients=2)) as crew:
        engine = InProcess(algorithm, crew)
        rounds = list(federate(algorithm, engine, engine.server_view, ["client00", "client01"], Schedule(2, 2), 0))
    assert len(rounds) == 2
    assert unpack(algorithm.server_state, rounds[-1].progress.server).waiting == {}
    assert re.search(r"tuning client\S+ client.* in round 1 leaves the network as it was: the loss is (nan|inf)", caplog.text)


def choosy(shape: tuple[int, ...], classes: int) -> nn.Module:
    class Choosy(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            if self.training:
                raise IndexError("no such\nword")
            return super().forward(input.flatten(1))

    return Choosy(64, classes)


@pytest.mark.parametrize("count", [1, 2])
def test_a_network_that_fails_in_a_round_is_told_by_client_and_name(count: int) -> None:
    cohort = make_cohort(f"{__name__}:choosy", clients=2)
    with Workers(cohort, count) as crew:
        engine = InProcess(Local(), crew)
        told = rf"client client0\d \({__name__}:choosy\) in round 1: a network failed with IndexError: no such word\. "
        with pytest.raises(ModelError, match=told) as refusal:
            list(federate(Local(), engine, engine.server_view, list(cohort.networks), Schedule(1, 2), 0))
    assert count == 2 or isinstance(refusal.value.__cause__, IndexError)


class AtServer(Local):
    """Its server runs a network, or fails without one."""

    def server_step(self, server: Nothing, replies: Mapping[str, Nothing], view: ServerView) -> tuple[Nothing, Metrics]:
        if view.seed == 1:
            raise IndexError("of its own")
        return server, {"said": view.map(choose, [Nothing()] * 2, Nothing)}


def choose(job: Nothing, view: ServerView) -> Nothing:
    choosy((64,), 4).train()(torch.zeros(1, 64))
    return job


@pytest.mark.parametrize("count", [1, 2])
def test_a_network_that_fails_at_the_server_is_told_and_other_failures_are_left(count: int) -> None:
    for seed, kind, told in (
        (0, ModelError, r"^the server in round 1: a network failed with IndexError: no such word\. Choose in clients\.models"),
        (1, IndexError, "of its own"),
    ):
        cohort = dataclasses.replace(make_cohort("mlp", clients=2), seed=seed)
        with Workers(cohort, count) as workers:
            engine = InProcess(AtServer(), workers)
            with pytest.raises(kind, match=told):
                list(federate(AtServer(), engine, engine.server_view, list(cohort.networks), Schedule(1, 2), seed))
