"""Teachers that are one's own network, what candidates learn besides labels, and training that starts from a teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import pytest
import torch
from methods import suited
from torch import Tensor
from toy import equal, make_cohort

from pfedhr.algorithm import SettingError, Setup
from pfedhr.algorithms.lessons import Lesson, Taught
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.private import initial_weights, restore
from pfedhr.algorithms.teacher import Teacher, teacher_network, weights_in
from pfedhr.algorithms.tuning import TuningJob, tune
from pfedhr.algorithms.uploads import describe_network, upload
from pfedhr.federate import Schedule, federate
from pfedhr.in_process import Cohort, InProcess, Workers, sequential
from pfedhr.inference import predict
from pfedhr.learning import Training
from pfedhr.parcel import unpack
from pfedhr.reassembly import cut

OWN = PFedHR.paper(groups=3, candidates=2, tuning_epochs=1, probe=8, teachers="own")


FORMS = [
    OWN,
    dataclasses.replace(OWN, tuning_targets="both", start="teacher"),
    dataclasses.replace(OWN, tuning_targets="both", donors="all", start="teacher", distil_weight=1.0),
    dataclasses.replace(OWN, tuning_targets="cohort", start="teacher", most_blocks=2, groups=2),
    dataclasses.replace(OWN, teachers="structure", tuning_targets="both", donors="all", start="teacher", tuned_blocks=2),
    dataclasses.replace(OWN, teachers="reassembled", tuning_targets="both"),
    dataclasses.replace(OWN, teachers="reassembled", stitch_start="solved", tuning_epochs=0),
    dataclasses.replace(OWN, teachers="reassembled", stitch_start="solved", tuned_candidates="chosen", match="benefit"),
]


def states(algorithm: PFedHR, cohort: Cohort, rounds: int = 3) -> dict[str, bytes | None]:
    engine = InProcess(algorithm, Workers(cohort))
    list(federate(algorithm, engine, engine.server_view, engine.clients, Schedule(rounds, 2), cohort.seed))
    return {client: engine.state(client) for client in engine.clients}


def teachers_of(algorithm: PFedHR, cohort: Cohort) -> dict[str, Teacher]:
    """The teachers that the server makes of every client's initial network."""
    views = {client: cohort.client_view(client, 1) for client in cohort.networks}
    sent = {
        client: upload(view.network, initial_weights(view), view.train.ready(view.device).inputs, ())
        for client, view in views.items()
    }
    view = sequential(lambda map: cohort.server_view(1, map))
    server, _ = algorithm.server_step(algorithm.init_server(view), sent, view)
    return {client: server.made[name] for client, name in server.waiting.items()}


def test_an_untuned_own_teacher_is_the_network_that_went_up() -> None:
    cohort = make_cohort("cnn1", "cnn2", "mlp")
    for client, teacher in teachers_of(dataclasses.replace(OWN, tuning_epochs=0), cohort).items():
        view = cohort.client_view(client, 1)
        description = describe_network(view.network, torch.float32)
        held = weights_in(teacher, cut(description.blueprint))
        assert held is not None
        assert equal({own: held[name] for name, own in description.names.items()}, initial_weights(view))


def test_to_start_from_an_untuned_own_teacher_changes_nothing() -> None:
    cohort = make_cohort("cnn1", "cnn2", "mlp")
    untuned = dataclasses.replace(OWN, tuning_epochs=0)
    assert states(dataclasses.replace(untuned, start="teacher"), cohort) == states(untuned, cohort)


def test_training_starts_from_the_tuned_network() -> None:
    cohort = make_cohort("cnn1", "mlp", epochs=1)
    algorithm = dataclasses.replace(OWN, start="teacher", distil_weight=0.0)
    teacher = teachers_of(algorithm, cohort)["client00"]
    view = cohort.client_view("client00", 2)
    description = describe_network(view.network, torch.float32)
    held = weights_in(teacher, cut(description.blueprint)) or {}
    tuned = {own: held[name] for name, own in description.names.items()}
    assert not equal(tuned, initial_weights(view))
    after, *_ = algorithm.client_step(Taught(initial_weights(view), None), Lesson(teacher, ()), view)
    expected, *_ = algorithm.client_step(Taught(tuned, None), Lesson(None, ()), view)
    assert equal(after.weights, expected.weights)
    other = cohort.client_view("client01", 2)  # one of another structure could not start from it
    assert algorithm._begin(Taught(tuned, None), Lesson(teacher, ()), other) is tuned


def test_a_teacher_beyond_its_age_is_as_one_that_never_came() -> None:
    cohort = make_cohort("cnn1", "mlp", epochs=1)
    aged = dataclasses.replace(OWN, start="teacher", teacher_max_age=1)
    teacher = teachers_of(aged, cohort)["client00"]
    state = Taught(initial_weights(cohort.client_view("client00", 1)), None)
    for round, taught in ((teacher.round + 1, True), (teacher.round + 2, False)):
        view = cohort.client_view("client00", round)
        after, *_ = aged.client_step(state, Lesson(teacher, ()), view)
        alone, *_ = aged.client_step(state, Lesson(None, ()), view)
        assert equal(after.weights, alone.weights) is not taught
        assert (after.teacher is not None) is taught


@pytest.mark.parametrize(
    ("donors", "heard"), [("active", ["client02", "client03"]), ("all", ["client00", "client02", "client03"])]
)
def test_the_mean_prediction_is_that_of_the_uploads_of_all_donors(donors: Literal["active", "all"], heard: list[str]) -> None:
    """Of a client that is heard again, here client02, only the last upload counts."""
    algorithm, cohort = dataclasses.replace(OWN, tuning_targets="both", donors=donors), make_cohort("cnn1", "mlp")
    targets: list[Tensor | None] = []

    def watched(work: Any, jobs: Sequence[TuningJob], result: type[Any]) -> list[Any]:
        targets[:] = [job.targets for job in jobs]
        return [work(job, view) for job in jobs]

    view = cohort.server_view(1, watched)
    server = algorithm.init_server(view)
    for clients, seed in ((["client00", "client02"], 0), (["client02", "client03"], 1)):
        views = {client: dataclasses.replace(cohort.client_view(client, 1), seed=seed) for client in clients}
        sent = {
            client: upload(one.network, initial_weights(one), one.train.ready(one.device).inputs, ())
            for client, one in views.items()
        }
        server, _ = algorithm.server_step(server, sent, view)
    inputs = view.public.ready(view.device).inputs
    seeds = {"client00": 0, "client02": 1, "client03": 1}
    said = []
    for client in heard:
        one = dataclasses.replace(cohort.client_view(client, 1), seed=seeds[client])
        said.append(predict(restore(one.network, initial_weights(one)), inputs).softmax(1))
    assert len(targets) == 2
    for found in targets:
        assert found is not None
        torch.testing.assert_close(found.exp(), sum(said) / len(said))
    assert list(server.said) == (["client00", "client02", "client03"] if donors == "all" else [])


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("labelled", [True, False])
def test_a_network_learns_what_the_others_predict(labels: bool, labelled: bool) -> None:
    """One step of Adam from the same weights goes where the sum of the losses says, whose gradient is taken by hand here."""
    cohort = make_cohort("mlp", labelled=labelled)
    teacher = next(iter(teachers_of(dataclasses.replace(OWN, tuning_epochs=0, tuning_targets="cohort"), cohort).values()))
    view = sequential(lambda map: cohort.server_view(1, map))
    inputs = view.public.ready(view.device).inputs
    targets = torch.randn(len(inputs), 4).log_softmax(1)
    rate = 0.01
    job = TuningJob(teacher, Training(1, len(inputs), rate), 0.5, targets=targets, labels=labels)
    tuned = tune(job, view).teacher.weights
    network = teacher_network(teacher)
    logits = network(inputs)
    loss = (targets.exp() * (targets - logits.log_softmax(1))).sum(1).mean()
    if labels and labelled:
        loss = loss + torch.nn.functional.cross_entropy(logits, view.public.labels)
    loss.backward()
    for name, value in network.named_parameters():
        moved = tuned[name] - teacher.weights[name]
        sure = value.grad.abs() > 1e-4  # Adam's first step is the rate against the gradient's sign
        torch.testing.assert_close(moved[sure], -rate * value.grad.sign()[sure], rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_forms_run_alike_with_workers_and_learn(form: PFedHR) -> None:
    cohort = suited(form, "cnn1", "mlp", clients=3, epochs=4)
    found = []
    for workers in (1, 2):
        with Workers(cohort, workers) as crew:
            engine = InProcess(form, crew)
            results = list(federate(form, engine, engine.server_view, engine.clients, Schedule(3, 3), cohort.seed))
        found.append({client: engine.state(client) for client in engine.clients})
        assert sum(one.own.accuracy for one in results[-1].scores.values()) / 3 > 0.9
        assert results[-1].server["teachers"]
    assert found[0] == found[1]
    state = unpack(Taught, found[0]["client00"] or b"")
    assert state.teacher is not None


def test_unlabelled_vectors_can_be_learnt_from_the_cohort_and_a_start_needs_own_teachers() -> None:
    cohort = make_cohort("mlp", labelled=False)
    setup = Setup(cohort.networks, cohort.federation.public, cohort.training, 2)
    with pytest.raises(SettingError, match=r'algorithm.teachers = "own"'):
        PFedHR.paper(groups=2, start="teacher").check(setup)
    assert OWN.public_use(labelled=True) == "labels at the server"
    assert dataclasses.replace(OWN, tuning_targets="cohort").public_use(labelled=True) == "inputs at the server"


def test_classes_that_no_donor_thinks_possible_leave_the_tuning_finite() -> None:
    """Logits so far apart that softmax gives 0, and its logarithm minus infinity."""
    cohort = make_cohort("mlp", clients=1)
    view, algorithm = cohort.client_view("client00", 1), dataclasses.replace(OWN, tuning_targets="both")
    certain = {name: value * 1e4 for name, value in initial_weights(view).items()}
    sent = {"client00": upload(view.network, certain, view.train.ready(view.device).inputs, ())}
    server_view = sequential(lambda map: cohort.server_view(1, map))
    server, _ = algorithm.server_step(algorithm.init_server(server_view), sent, server_view)
    assert not server.said  # of this round alone
    (teacher,) = server.made.values()
    assert all(value.isfinite().all() for value in teacher.weights.values())
