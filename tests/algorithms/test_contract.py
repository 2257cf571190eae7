"""What every method must do, over the table of methods."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from methods import (
    ALONE,
    METHODS,
    NEEDS_LABELS,
    NETWORKS_AS_DATA,
    ONE_STRUCTURE,
    OWN_TEACHERS,
    SMALL,
    suited,
)
from torch import Tensor
from toy import equal, make_cohort, separable
from toy_rounds import run, run_on, without_times

from pfedhr.algorithm import Algorithm, ClientView, ServerView, SettingError, Setup
from pfedhr.algorithms import ALGORITHMS
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.needs import public_data
from pfedhr.algorithms.own import Own
from pfedhr.algorithms.private import common_weights
from pfedhr.federate import Schedule, federate
from pfedhr.in_process import Cohort, InProcess, Workers
from pfedhr.parcel import pack, unpack
from pfedhr.reassembly import DecompositionError
from pfedhr.transport import Admit, Order, Report


@pytest.mark.parametrize("algorithm", METHODS)
def test_every_row_of_the_table_is_covered_and_named(algorithm: Algorithm) -> None:
    assert set(SMALL) == set(ALGORITHMS)
    assert ALGORITHMS[algorithm.name] is type(algorithm)


def using_labels(wanted: bool) -> list[Any]:
    """The methods that use the labels of public data, or the others."""
    return [one for one in METHODS if ("labels" in one.values[0].public_use(labelled=True)) is wanted]


@pytest.mark.parametrize(
    ("algorithm", "labelled"),
    [pytest.param(one.values[0], True, id=one.id) for one in METHODS]
    # The others do not see the difference.
    + [pytest.param(one.values[0], False, id=f"{one.id}-unlabelled") for one in using_labels(True)],
)
def test_some_take_part_in_each_round_and_a_resumed_run_ends_the_same(algorithm: Algorithm, labelled: bool) -> None:
    if not labelled and algorithm.name in NEEDS_LABELS:
        with pytest.raises(SettingError, match=f"{algorithm.name} needs labels .* public.labelled = true"):
            suited(algorithm, "cnn1", "mlp", labelled=False)
        return
    cohort = suited(algorithm, "cnn1", "mlp", labelled=labelled)
    first, states = run(algorithm, cohort, Schedule(3, 3))
    again, states_again = run(algorithm, cohort, Schedule(3, 3), stop_after=1)
    assert [len(result.active) for result in first] == [3, 3, 3]
    assert [without_times(result) for result in first] == [without_times(result) for result in again]
    assert states == states_again
    other, _ = run(algorithm, suited(algorithm, "cnn1", "mlp", labelled=labelled, seed=1), Schedule(1, 3))
    assert without_times(first[0]) != without_times(other[0])


@pytest.mark.parametrize("algorithm", using_labels(False))
def test_labels_of_public_data_matter_only_to_methods_that_say_so(algorithm: Algorithm) -> None:
    cohort = suited(algorithm, "cnn1", "mlp")
    without = dataclasses.replace(
        cohort, federation=dataclasses.replace(cohort.federation, public=separable(16, "public").without_labels())
    )
    (_, states), (_, states_without) = (run(algorithm, one, Schedule(2, 3)) for one in (cohort, without))
    assert states == states_without


@pytest.mark.parametrize("algorithm", METHODS)
def test_without_public_data_a_method_runs_or_says_what_it_needs(algorithm: Algorithm) -> None:
    cohort = suited(algorithm, "cnn1", "mlp")
    none = separable(16, "public").take(torch.arange(0))
    without = dataclasses.replace(cohort, federation=dataclasses.replace(cohort.federation, public=none))
    setup = Setup(cohort.networks, none, cohort.training, 4)
    if algorithm.public_use(labelled=True) == "none":
        public_data(algorithm, setup)
        algorithm.check(setup)
        assert run(algorithm, without, Schedule(2, 3))[1] == run(algorithm, cohort, Schedule(2, 3))[1]
    else:
        with pytest.raises(SettingError, match=rf"{algorithm.name} needs public data, .*: set public\.share above 0"):
            public_data(algorithm, setup)


@pytest.fixture(scope="module")
def crews() -> Iterator[Callable[[Cohort], Workers]]:
    """Two worker processes for a cohort, which methods share: starting them takes longer than the rounds."""
    with ExitStack() as stack:
        made: dict[bytes, Workers] = {}

        def crew(cohort: Cohort) -> Workers:
            key = repr(cohort.networks).encode() + pack(cohort.federation)
            if key not in made:
                made[key] = stack.enter_context(Workers(cohort, 2))
            return made[key]

        yield crew


@pytest.mark.parametrize("algorithm", METHODS)
def test_workers_give_the_same_bits(algorithm: Algorithm, crews: Callable[[Cohort], Workers]) -> None:
    cohort = suited(algorithm, "cnn1", "resnet", "mlp")
    alone, states = run(algorithm, cohort, Schedule(2, 3))
    together, states_together = run_on(crews(cohort), algorithm, Schedule(2, 3))
    assert [without_times(result) for result in alone] == [without_times(result) for result in together]
    assert states == states_together


@pytest.mark.parametrize("algorithm", METHODS)
def test_a_separable_task_is_learnt(algorithm: Algorithm) -> None:
    results, _ = run(algorithm, suited(algorithm, "cnn1", "mlp", epochs=8), Schedule(4, 4))
    accuracies = [scores.own.accuracy for scores in results[-1].scores.values()]
    assert sum(accuracies) / len(accuracies) > 0.9


@pytest.mark.parametrize("network", ["toy:tied", "toy:masked", "toy:spare"])
@pytest.mark.parametrize("algorithm", [method for method in METHODS if method.id != "heterofl"])  # which slices CNN4 alone
def test_tied_weights_masks_and_layers_without_use_take_part(algorithm: Algorithm, network: str) -> None:
    if network == "toy:spare" and algorithm.name in NETWORKS_AS_DATA:
        with pytest.raises(DecompositionError, match=r"'toy:spare': Spare never uses .*: .* remove the unused layer spare"):
            suited(algorithm, network, "mlp")
        return
    results, states = run(algorithm, suited(algorithm, network, "mlp"), Schedule(3, 4))
    assert None not in states.values()
    assert all(result.refused == {} for result in results)


@pytest.mark.parametrize("algorithm", METHODS)
def test_one_client_alone_is_enough(algorithm: Algorithm) -> None:
    results, _ = run(algorithm, suited(algorithm, "cnn1", clients=1), Schedule(2, 1))
    assert list(results[-1].scores) == ["client00"]


@dataclasses.dataclass(frozen=True)
class FromCommonWeights(Local):
    """Learning alone, from the weights with which methods begin that average networks."""

    def init_client(self, view: ClientView) -> Own:
        return Own(common_weights(view.network, view.seed))


@pytest.mark.parametrize("algorithm", [method for method in METHODS if method.values[0].name in ALONE])
def test_one_client_without_anything_from_others_learns_alone(algorithm: Algorithm) -> None:
    algorithm = dataclasses.replace(algorithm, **ALONE[algorithm.name])
    if getattr(algorithm, "teachers", "reassembled") != "reassembled":
        algorithm = dataclasses.replace(algorithm, tuning_epochs=0)  # else one's own network, tuned, is where training starts
    averages = algorithm.name in ONE_STRUCTURE | {"feddf"} or getattr(algorithm, "teachers", "") == "structure"
    local = FromCommonWeights() if averages else Local()
    cohort = suited(algorithm, "mlp", clients=1)
    (_, states), (_, alone) = (run(method, cohort, Schedule(3, 1)) for method in (algorithm, local))
    assert equal(
        unpack(algorithm.client_state, states["client00"] or b"").weights, unpack(Own, alone["client00"] or b"").weights
    )


class Lossy(InProcess):
    """An engine that loses what one client replies."""

    def exchange(self, outbox: Mapping[str, Order], admit: Admit) -> dict[str, Report]:
        reports = super().exchange(outbox, admit)
        return {client: report for client, report in reports.items() if client != "client01"}


class Deaf(InProcess):
    """An engine that does not ask that client."""

    def exchange(self, outbox: Mapping[str, Order], admit: Admit) -> dict[str, Report]:
        return super().exchange({client: order for client, order in outbox.items() if client != "client01"}, admit)


@pytest.mark.parametrize("algorithm", METHODS)
def test_a_missing_reply_is_as_if_its_client_had_not_been_asked(algorithm: Algorithm) -> None:
    cohort = suited(algorithm, "cnn1", "mlp")
    clients = list(cohort.networks)
    with Workers(cohort) as workers:
        lossy, deaf = (engine(algorithm, workers) for engine in (Lossy, Deaf))
        results, wanted = (
            list(federate(algorithm, engine, engine.server_view, clients, Schedule(2, 4), 0)) for engine in (lossy, deaf)
        )
    assert [result.progress.server for result in results] == [result.progress.server for result in wanted]
    others = [client for client in clients if client != "client01"]
    assert [lossy.state(client) for client in others] == [deaf.state(client) for client in others]
    assert set(results[-1].scores) == set(others)
    assert "client01" in results[-1].progress.unscored


class Silent(InProcess):
    """An engine that reaches nobody in the second round."""

    def exchange(self, outbox: Mapping[str, Order], admit: Admit) -> dict[str, Report]:
        return super().exchange({client: order for client, order in outbox.items() if order.round != 2}, admit)


@pytest.mark.parametrize("algorithm", METHODS)
def test_a_round_without_replies_leaves_the_server_as_it_was(algorithm: Algorithm) -> None:
    cohort = suited(algorithm, "cnn1", "mlp")
    with Workers(cohort) as workers:
        engine = Silent(algorithm, workers)
        first, second, third = federate(algorithm, engine, engine.server_view, list(cohort.networks), Schedule(3, 4), 0)
    assert second.progress.server == first.progress.server
    assert (second.clients, second.server) == ({}, {})
    assert set(third.clients) == set(cohort.networks)


class Late(InProcess):
    """An engine that reaches one client in the third round only."""

    def exchange(self, outbox: Mapping[str, Order], admit: Admit) -> dict[str, Report]:
        reached = {client: one for client, one in outbox.items() if client != "client03" or one.round == 3}
        return super().exchange(reached, admit)


@pytest.mark.parametrize("algorithm", METHODS)
def test_who_comes_late_gets_what_the_others_have(algorithm: Algorithm) -> None:
    cohort = suited(algorithm, "cnn1", "mlp")
    with Workers(cohort) as workers:
        engine = Late(algorithm, workers)
        results = list(federate(algorithm, engine, engine.server_view, list(cohort.networks), Schedule(3, 4), 0))
    late, others = results[-1].scores["client03"], [results[-1].scores[client] for client in ("client01", "client02")]
    assert "client03" not in results[1].scores
    if algorithm.name in OWN_TEACHERS and getattr(algorithm, "teachers", "") != "structure":
        assert late.teacher is None
        assert all(one.teacher for one in others)
    else:
        assert (late.teacher is not None) == all(one.teacher for one in others) == any(one.teacher for one in others)


@pytest.mark.parametrize("algorithm", METHODS)
def test_steps_change_none_of_their_arguments_and_states_survive_packing(algorithm: Algorithm) -> None:
    cohort = suited(algorithm, "cnn1", "mlp", clients=2)
    engine = InProcess(algorithm, Workers(cohort))
    server = algorithm.init_server(engine.server_view(0))
    states = {client: algorithm.init_client(cohort.client_view(client, 0)) for client in cohort.networks}
    federation = pack(cohort.federation)
    for round in (1, 2):
        replies = {}
        for client in cohort.networks:
            message = algorithm.message(server, client)
            before = pack(states[client]), pack(message), pack(server)
            new, reply, metrics = algorithm.client_step(states[client], message, cohort.client_view(client, round))
            assert (pack(states[client]), pack(message), pack(server)) == before
            assert all(math.isfinite(value) for value in metrics.values())
            states[client] = unpack(algorithm.client_state, pack(new))
            assert pack(states[client]) == pack(new)
            replies[client] = reply
        before = pack(server), {client: pack(reply) for client, reply in replies.items()}
        new, _ = algorithm.server_step(server, replies, engine.server_view(round))
        assert (pack(server), {client: pack(reply) for client, reply in replies.items()}) == before
        server = unpack(algorithm.server_state, pack(new))
        assert pack(server) == pack(new)
    assert pack(cohort.federation) == federation


@pytest.mark.parametrize("algorithm", METHODS)
def test_the_server_never_gets_private_data(algorithm: Algorithm) -> None:
    names = {field.name for field in dataclasses.fields(ServerView)}
    assert names == {"public", "classes", "mirror", "round", "seed", "device", "map"}
    assert "test" not in {field.name for field in dataclasses.fields(ClientView)}
    cohort = suited(algorithm, "cnn1", "mlp", clients=2)
    for client, data in cohort.federation.clients.items():
        view = cohort.client_view(client, 1)
        server = algorithm.init_server(InProcess(algorithm, Workers(cohort)).server_view(0))
        _, reply, _ = algorithm.client_step(algorithm.init_client(view), algorithm.message(server, client), view)
        sent = pack(reply)
        for image in data.train.inputs:
            for form in (image, image.float() / 127.5 - 1):
                assert form.numpy().tobytes() not in sent


def test_a_view_is_what_a_method_sees() -> None:
    cohort = make_cohort("mlp", clients=2)
    view = cohort.client_view("client01", 3)
    assert (view.id, view.round) == ("client01", 3)
    assert isinstance(view.train.inputs, Tensor)
    assert torch.equal(view.train.inputs, cohort.federation.clients["client01"].train.inputs)
