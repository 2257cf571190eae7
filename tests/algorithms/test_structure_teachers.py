"""Teachers that all clients of a structure share, and tuning of a network's last blocks alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from methods import suited
from toy import equal, make_cohort

from pfedhr.algorithm import SettingError, Setup
from pfedhr.algorithms.feddf import FedDF
from pfedhr.algorithms.lessons import Taught, Teachers
from pfedhr.algorithms.pfedclub import PFedClub
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.private import initial_weights
from pfedhr.algorithms.teacher import Teacher, draft, teacher_network, weights_in
from pfedhr.algorithms.tuning import TuningJob, tune
from pfedhr.algorithms.uploads import Upload, deposit_sources, describe_network, learn_structures, sources_of, upload
from pfedhr.in_process import Cohort, sequential
from pfedhr.inference import predict
from pfedhr.learning import Training, fit
from pfedhr.reassembly import Recipe, cut
from pfedhr.seeding import generator, seeded

SHARED = PFedHR(teachers="structure", tuning_epochs=0, probe=8)


def upload_of(cohort: Cohort, client: str, examples: int) -> Upload:
    """The client's own initial network, which differs from its fellows', said to have seen so many examples."""
    view = cohort.client_view(client, 1)
    sent = upload(view.network, initial_weights(view), view.train.ready(view.device).inputs, ())
    return dataclasses.replace(sent, examples=examples)


def after(algorithm: PFedHR, cohort: Cohort, server: Teachers | None, round: int, **examples: int) -> Teachers:
    view = sequential(lambda map: cohort.server_view(round, map))
    sent = {client: upload_of(cohort, client, count) for client, count in examples.items()}
    return algorithm.server_step(algorithm.init_server(view) if server is None else server, sent, view)[0]


def weights_for(cohort: Cohort, client: str, teacher: Teacher | None) -> dict[str, torch.Tensor]:
    description = describe_network(cohort.networks[client], torch.float32)
    held = weights_in(teacher, cut(description.blueprint)) if teacher else None
    assert held is not None
    return {own: held[name] for name, own in description.names.items()}


def test_the_teacher_of_a_structure_is_the_mean_of_its_clients_last_uploads_by_their_examples() -> None:
    cohort = make_cohort("cnn1", "mlp", "mlp")
    first, other = (initial_weights(cohort.client_view(client, 1)) for client in ("client01", "client02"))
    server = after(SHARED, cohort, None, 1, client00=10, client01=30)
    assert equal(weights_for(cohort, "client01", SHARED.message(server, "client01").teacher), first)
    # client02 comes later: client01's upload of the round before is still of weight.
    server = after(SHARED, cohort, server, 2, client02=10)
    for client in ("client01", "client02"):
        lesson = SHARED.message(server, client)
        held = weights_for(cohort, client, lesson.teacher)
        assert not lesson.offered
        for name, value in held.items():
            torch.testing.assert_close(value, 0.75 * first[name] + 0.25 * other[name])
    assert equal(
        weights_for(cohort, "client00", SHARED.message(server, "client00").teacher),
        initial_weights(cohort.client_view("client00", 1)),
    )


def test_a_client_never_heard_of_begins_with_the_network_of_its_structure() -> None:
    cohort = make_cohort("cnn1", "mlp", "mlp")
    server = after(SHARED, cohort, None, 1, client00=10, client01=30)
    lesson = SHARED.message(server, "client02")
    assert lesson.teacher is None
    assert len(lesson.offered) == 2
    view = cohort.client_view("client02", 2)
    form = dataclasses.replace(SHARED, decline_below=0.0, distil_weight=0.0)
    state, *_ = form.client_step(form.init_client(view), lesson, view)
    begun = Taught(weights_for(cohort, "client01", SHARED.message(server, "client01").teacher), None)
    expected, *_ = form.client_step(begun, dataclasses.replace(lesson, offered={}), view)
    assert equal(state.weights, expected.weights)
    stranger = after(SHARED, cohort, None, 1, client00=10)  # nobody of its structure has been heard
    alone_state, *_ = form.client_step(form.init_client(view), SHARED.message(stranger, "client02"), view)
    expected, *_ = form.client_step(form.init_client(view), dataclasses.replace(lesson, offered={}), view)
    assert equal(alone_state.weights, expected.weights)


KEEPING = [
    pytest.param(SHARED, id="structure"),
    pytest.param(dataclasses.replace(SHARED, teachers="own"), id="own"),
    pytest.param(PFedHR.paper(groups=2, candidates=2, tuning_epochs=0, probe=8), id="reassembled"),
    pytest.param(PFedClub(groups=2, candidates=2, tuning_epochs=0, probe=8), id="pfedclub"),
    pytest.param(FedDF(tuning_epochs=0), id="feddf"),
]


@pytest.mark.parametrize("algorithm", KEEPING)
def test_structures_that_no_client_has_any_more_are_forgotten(algorithm: PFedHR | PFedClub | FedDF) -> None:
    cohort = make_cohort("cnn1", "mlp", clients=2)
    view = sequential(lambda map: cohort.server_view(1, map))
    first, second = (upload_of(cohort, client, 10) for client in cohort.networks)
    server, _ = algorithm.server_step(algorithm.init_server(view), {"client00": first, "client01": second}, view)
    server, _ = algorithm.server_step(server, {"client00": dataclasses.replace(second, blueprint=None)}, view)
    assert list(server.known) == [second.structure]
    if algorithm is SHARED or isinstance(algorithm, FedDF):
        kept = server.fused if isinstance(algorithm, FedDF) else server.structures.teachers
        assert list(kept) == [second.structure]
    # Who comes with it again describes it again.
    assert algorithm.message(server, "client00").known == (second.structure,)
    server, _ = algorithm.server_step(server, {"client00": first}, view)
    assert set(server.known) == {first.structure, second.structure}


def test_clients_of_one_structure_begin_alike_where_they_are_averaged() -> None:
    cohort = make_cohort("mlp", "mlp", clients=2)
    views = [cohort.client_view(client, 0) for client in cohort.networks]
    shared, kept = ([form.init_client(view).weights for view in views] for form in (SHARED, PFedHR(teachers="own")))
    assert equal(*shared)
    assert not equal(*kept)


@pytest.mark.parametrize("network", ["cnn1", "cnn4-quarter", "mlp"])
def test_tuning_the_last_blocks_is_training_the_whole_with_the_others_frozen(network: str) -> None:
    cohort = suited(PFedHR(), network)
    client = next(iter(cohort.networks))
    view = sequential(lambda map: cohort.server_view(1, map))
    sent = {client: upload_of(cohort, client, 10)}
    sources = sources_of(sent, learn_structures({}, sent), 0)
    bank = deposit_sources(sources, view.device)
    made = draft(Recipe(bank.chain(client)), bank, sources, "light", 1)
    inputs = view.public.ready(view.device).inputs
    targets = torch.randn(len(inputs), view.classes).log_softmax(1)
    training = Training(3, 8, 0.01)
    tuned = tune(TuningJob(made, training, 0.5, False, targets, labels=False, last=2), view)

    whole = teacher_network(made)
    names = [name for name, _ in whole.named_children()]
    first = [place for place, name in enumerate(names) if name.startswith("block")][-2]
    body, tail = whole[:first], whole[first:]
    body.requires_grad_(False)

    def loss(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        logits = tail(predict(body, inputs[batch]))
        return (targets[batch].exp() * (targets[batch] - logits.log_softmax(1))).sum(1).mean()

    path = (view.round, str(made.recipe), "tuning")
    with seeded(view.seed, *path, "dropout"):
        fit(whole, len(inputs), loss, training, generator(view.seed, *path, "batches"))
    expected = {name: value for name, value in whole.state_dict().items() if name in made.weights}
    changed = [name for name in made.weights if not torch.equal(tuned.teacher.weights[name], made.weights[name])]
    assert changed
    assert {name.partition(".")[0] for name in changed} <= set(names[first:])
    for name, value in expected.items():
        torch.testing.assert_close(tuned.teacher.weights[name], value, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(tuned.logits, predict(teacher_network(tuned.teacher), inputs))


def test_the_stitch_before_the_last_blocks_is_tuned_with_them_and_all_blocks_are_the_whole() -> None:
    cohort = suited(PFedHR(), "cnn1", "cnn2")
    view = sequential(lambda map: cohort.server_view(1, map))
    sent = {client: upload_of(cohort, client, 10) for client in cohort.networks}
    sources = sources_of(sent, learn_structures({}, sent), 0)
    bank = deposit_sources(sources, view.device)
    first, second = (bank.chain(client) for client in sorted(cohort.networks)[:2])
    made = draft(Recipe((first[0], *second[1:])), bank, sources, "light", 1)
    blocks = [name for name in made.parts if name.startswith("block")]
    names = [name for name, _ in teacher_network(made).named_children()]
    last = len(blocks) - 1
    stitch = names[names.index(blocks[0]) + 1]
    assert stitch.startswith("stitch")
    targets = torch.randn(len(view.public), view.classes).log_softmax(1)

    def changed(last: int) -> set[str]:
        tuned = tune(TuningJob(made, Training(1, 8, 0.01), 0.5, False, targets, labels=False, last=last), view)
        return {
            name.partition(".")[0]
            for name, value in tuned.teacher.weights.items()
            if value.is_floating_point() and not torch.equal(value, made.weights[name])
        }

    weighty = {name.partition(".")[0] for name in made.weights}
    assert changed(last) == {name for name in weighty if name != blocks[0]}
    assert stitch in changed(last)
    assert changed(len(blocks)) == changed(0) == weighty


@pytest.mark.parametrize("form", [SHARED, dataclasses.replace(SHARED, teachers="own")], ids=lambda form: form.teachers)
@pytest.mark.parametrize("last", [0, 2])
def test_the_server_leaves_the_blocks_before_the_last_as_they_came(form: PFedHR, last: int) -> None:
    cohort = make_cohort("cnn1", "mlp", clients=2)
    tuning = dataclasses.replace(form, tuning_epochs=1, tuning_batch_size=8, tuned_blocks=last)
    tuned, came = (after(one, cohort, None, 1, client00=10, client01=10) for one in (tuning, form))
    for client in cohort.networks:
        teacher, untuned = (form.message(server, client).teacher for server in (tuned, came))
        assert teacher is not None
        assert untuned is not None
        weights = {name for name in teacher.weights if name.endswith("weight")}
        changed = {name for name in weights if not torch.equal(teacher.weights[name], untuned.weights[name])}
        assert changed == {name for name in weights if name.partition(".")[0] in list(teacher.parts)[-last:]}


@pytest.mark.parametrize("last", [0, 9])
def test_no_number_of_blocks_and_more_than_there_are_tune_the_whole(last: int) -> None:
    cohort = make_cohort("mlp", "mlp")
    form = PFedHR(teachers="structure", tuning_epochs=1, tuning_batch_size=8, tuned_blocks=last)
    server = after(form, cohort, None, 1, client00=10, client01=10)
    plain = after(SHARED, cohort, None, 1, client00=10, client01=10)
    held, untuned = (weights_for(cohort, "client00", form.message(one, "client00").teacher) for one in (server, plain))
    assert all(not torch.equal(held[name], untuned[name]) for name in held if name.endswith("weight"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tuned_blocks": -1}, r"algorithm\.tuned_blocks = -1"),
        ({"tuned_blocks": 2, "tuning_targets": "labels"}, r"algorithm\.tuned_blocks = 2: without labels"),
        ({"teachers": "reassembled"}, r'set algorithm\.teachers = "own" or "structure"'),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    cohort = make_cohort("cnn1", "cnn1", labelled=False)
    view = cohort.client_view("client00", 1)
    with pytest.raises(SettingError, match=message):
        dataclasses.replace(SHARED, **settings).check(Setup(cohort.networks, view.public, view.training, 2))
