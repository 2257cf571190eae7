from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_contract import run
from toy import equal, make_cohort

from pfedhr.algorithm import SettingError, Setup
from pfedhr.algorithms.lessons import Lesson, Taught, Teachers
from pfedhr.algorithms.local import Local, Own
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.private import initial_weights, restore
from pfedhr.algorithms.solving import solve_drafts
from pfedhr.algorithms.stopwatch import STAGES
from pfedhr.algorithms.teacher import Teacher, draft, teacher_network
from pfedhr.algorithms.tuning import Tuned, TuningJob, tune
from pfedhr.algorithms.uploads import Source, Upload, deposit_sources, learn_structures, sources_of, structure_means, upload
from pfedhr.data import Unlabelled
from pfedhr.federate import Schedule
from pfedhr.in_process import Cohort, InProcess, Workers
from pfedhr.inference import predict
from pfedhr.learning import Training
from pfedhr.models import ModelSpec
from pfedhr.parcel import ParcelError, pack, unpack
from pfedhr.reassembly import (
    DecompositionError,
    Recipe,
    assemble,
    block_similarity,
    deposit,
    group,
    match,
    profile,
    propose,
)
from pfedhr.seeding import generator, seeded
from pfedhr.zoo import ModelError

SMALL = PFedHR.paper(groups=3, candidates=4, tuning_epochs=1, probe=8)
NOTHING = Teachers({}, {}, {}, {})


def upload_of(cohort: Cohort, client: str) -> Upload:
    """The client's untrained network as it sends it the first time."""
    view = cohort.client_view(client, 1)
    return upload(view.network, initial_weights(view), view.train.ready(view.device).inputs, ())


def uploads_of(cohort: Cohort) -> dict[str, Upload]:
    return {client: upload_of(cohort, client) for client in cohort.networks}


def sources(cohort: Cohort) -> dict[str, Source]:
    uploads = uploads_of(cohort)
    return sources_of(uploads, learn_structures({}, uploads), 0)


def initial_network(cohort: Cohort, client: str) -> torch.nn.Module:
    view = cohort.client_view(client, 1)
    return restore(view.network, initial_weights(view))


def own_chain(cohort: Cohort, client: str) -> Teacher:
    """The client's own network, reassembled."""
    held = sources(cohort)
    bank = deposit_sources(held, torch.device("cpu"))
    return draft(Recipe(bank.chain(client)), bank, held, "light", 1)


def test_without_weight_on_the_teacher_it_is_local_bit_for_bit() -> None:
    cohort = make_cohort("cnn1", "cnn4", "resnet", "mlp", epochs=2)
    schedule = Schedule(3, 3)
    alone, alone_states = run(Local(), cohort, schedule)
    taught, taught_states = run(PFedHR.paper(groups=3, candidates=3, tuning_epochs=1, distil_weight=0.0), cohort, schedule)
    assert [result.active for result in alone] == [result.active for result in taught]
    for client in cohort.networks:
        assert (alone_states[client] is None) == (taught_states[client] is None)
        if alone_states[client] is not None:
            own = unpack(Own, alone_states[client]).weights
            other = unpack(Taught, taught_states[client]).weights
            assert list(own) == list(other)
            assert all(torch.equal(own[name], other[name]) for name in own)
        assert alone[-1].scores[client].own == taught[-1].scores[client].own
    _, weighted_states = run(SMALL, cohort, schedule)
    assert weighted_states != taught_states  # the teacher does make a difference otherwise


def test_the_own_chain_would_be_the_best_match_and_is_left_out() -> None:
    # One client, groups may repeat, nothing tuned
    cohort = make_cohort("cnn1", clients=1)
    model, probe = initial_network(cohort, "client00"), cohort.federation.public.ready(torch.device("cpu")).inputs
    bank = deposit({"client00": model}, probe)
    groups = group(block_similarity(profile(bank, probe)), 2)
    recipes = propose(groups, bank, limit=100, rng=generator(0), repeat_groups=True)
    own = Recipe(bank.chain("client00"))
    matching = match({"client00": model}, [assemble(recipe, bank) for recipe in recipes], probe)
    assert recipes[matching.choice["client00"]] == own
    assert matching.scores.max().item() == pytest.approx(1, abs=1e-5)

    algorithm = PFedHR.paper(groups=2, candidates=100, tuning_epochs=0, repeat_groups=True, probe=16)
    view = InProcess(algorithm, Workers(cohort)).server_view(1)
    server, metrics = algorithm.server_step(NOTHING, uploads_of(cohort), view)
    assert max(metrics["scores"][0]) == pytest.approx(1, abs=1e-5)  # it was a candidate
    assert server.made[server.waiting["client00"]].recipe != own

    tuned: list[Recipe] = []

    def watched(work: Any, jobs: Sequence[TuningJob], result: type) -> list[Any]:
        tuned.extend(job.teacher.recipe for job in jobs)
        return view.map(work, jobs, result)

    algorithm.server_step(NOTHING, uploads_of(cohort), replace(view, map=watched))
    assert tuned.count(own) == 1  # as a candidate and as the client's own network at once


def test_a_teacher_goes_down_once_and_stays_with_the_client() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=2)
    view = InProcess(SMALL, Workers(cohort)).server_view
    server, _ = SMALL.server_step(NOTHING, uploads_of(cohort), view(1))
    assert set(server.waiting) == {"client00", "client01"}
    lesson = SMALL.message(server, "client00")
    client_view = cohort.client_view("client00", 2)
    state, sent, _ = SMALL.client_step(SMALL.init_client(client_view), lesson, client_view)
    assert state.teacher is not None
    # One replies: its teacher is replaced; the other's still waits.
    server_after, metrics = SMALL.server_step(server, {"client00": sent}, view(2))
    assert server_after.waiting["client01"] == server.waiting["client01"]
    assert SMALL.message(server_after, "client01").teacher is SMALL.message(server, "client01").teacher
    assert metrics["candidates"] >= 1
    assert SMALL.message(server_after, "client00").teacher.round == 2
    # No new one comes down: the client keeps what it has.
    later, _, _ = SMALL.client_step(state, Lesson(None, ()), cohort.client_view("client00", 3))
    assert later.teacher is state.teacher
    # A new one comes down: it alone teaches from then on.
    lesson, client_view = SMALL.message(server_after, "client00"), cohort.client_view("client00", 3)
    newer, _, _ = SMALL.client_step(state, lesson, client_view)
    first, _, _ = SMALL.client_step(replace(state, teacher=None), lesson, client_view)
    assert newer.teacher is lesson.teacher
    assert equal(newer.weights, first.weights)
    assert not equal(newer.weights, later.weights)


def test_an_old_teacher_is_not_used_beyond_its_age() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=2)
    server, _ = SMALL.server_step(NOTHING, uploads_of(cohort), InProcess(SMALL, Workers(cohort)).server_view(1))
    state = Taught(initial_weights(cohort.client_view("client00", 1)), SMALL.message(server, "client00").teacher)
    view = cohort.client_view("client00", 3)
    alone, _, _ = Local().client_step(Own(state.weights), None, view)
    for age, taught in ((0, True), (1, False), (2, True)):
        after, _, _ = PFedHR.paper(teacher_max_age=age).client_step(state, Lesson(None, ()), view)
        same = all(torch.equal(alone.weights[name], after.weights[name]) for name in alone.weights)
        assert same is not taught


def test_a_teacher_is_rebuilt_as_it_was_tuned() -> None:
    cohort = make_cohort("cnn1", "cnn4", "mlp", clients=3)
    view = InProcess(SMALL, Workers(cohort)).server_view(1)
    server, metrics = SMALL.server_step(NOTHING, uploads_of(cohort), view)
    teacher = SMALL.message(server, "client01").teacher
    job = TuningJob(teacher, Training(1, 8, 1e-3), 0.5)
    tuned = tune(job, view)
    public = view.public.ready(torch.device("cpu"))
    assert torch.equal(predict(teacher_network(tuned.teacher), public.inputs), tuned.logits)
    assert metrics["teacher_sizes"]["client01"] == sum(value.numel() for value in teacher.weights.values())
    assert set(teacher.parts) >= {f"block{at}" for at in range(1, len(teacher.recipe.blocks) + 1)}


def test_tuning_with_labels_learns_them_and_without_does_not_see_them() -> None:
    cohort = make_cohort("cnn1", clients=1)
    untuned = own_chain(cohort, "client00")
    view = InProcess(SMALL, Workers(cohort)).server_view(1)
    labels = view.public.labels
    training = Training(40, 8, 3e-3)
    tuned = tune(TuningJob(untuned, training, 0.5), view)
    assert (tuned.logits.argmax(1) == labels).float().mean() == 1.0
    unlabelled = make_cohort("cnn1", clients=1, labelled=False)
    blind = InProcess(SMALL, Workers(unlabelled)).server_view(1)
    assert isinstance(blind.public, Unlabelled)
    contrasted = tune(TuningJob(untuned, training, 0.5), blind)
    assert any(not torch.equal(contrasted.teacher.weights[name], untuned.weights[name]) for name in untuned.weights)


def test_uploads_of_one_structure_are_averaged_by_their_examples() -> None:
    cohort = make_cohort("cnn4", "mlp", "cnn4", clients=3)
    held = sources(cohort)
    heavier = replace(held["client02"], examples=3 * held["client00"].examples)
    averaged = structure_means({**held, "client02": heavier})
    assert set(averaged) == {"client00+1", "client01"}
    first, second = held["client00"].weights, heavier.weights
    for name, value in averaged["client00+1"].weights.items():
        if value.is_floating_point():
            assert torch.allclose(value, 0.25 * first[name] + 0.75 * second[name], atol=1e-6), name
        else:
            assert value == max(first[name], second[name])
    assert averaged["client01"] is held["client01"]  # the only one of its structure


def test_the_large_cohort_variant_matches_each_client_against_its_own_weights() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=4)
    algorithm = PFedHR.paper(groups=2, candidates=4, tuning_epochs=0, average_structures=True, probe=16)
    view = InProcess(algorithm, Workers(cohort)).server_view(1)
    server, metrics = algorithm.server_step(NOTHING, uploads_of(cohort), view)
    assert set(server.waiting) == set(cohort.networks)
    assert len(metrics["scores"]) == 4
    assert {ref.owner for teacher in server.made.values() for ref in teacher.recipe.blocks} <= {"client00+1", "client01+1"}
    rows = metrics["scores"]
    assert rows[0] != rows[2]  # two clients of one structure are told apart


def test_where_no_candidate_exists_fewer_groups_are_tried() -> None:
    cohort = make_cohort("mlp", clients=2)
    # Two chains of four: no candidate has five blocks, so no five groups can all be in one.
    for groups in (7, 5):
        algorithm = PFedHR.paper(groups=groups, tuning_epochs=0, probe=16)
        _, metrics = algorithm.server_step(NOTHING, uploads_of(cohort), InProcess(algorithm, Workers(cohort)).server_view(1))
        assert 2 <= len(metrics["groups"]) < 5
        assert metrics["candidates"] >= 1


def lookalikes(shape: tuple[int, ...], classes: int) -> torch.nn.Module:
    class Flat(torch.nn.Sequential):
        """One layer: no chain of two groups can be made of it."""

    return Flat(torch.nn.Flatten(), torch.nn.Linear(64, classes))


def test_where_the_rules_allow_nothing_clients_train_without_a_teacher() -> None:
    cohort = make_cohort(f"{__name__}:lookalikes", clients=3)
    view = InProcess(SMALL, Workers(cohort)).server_view(1)
    server, metrics = SMALL.server_step(NOTHING, uploads_of(cohort), view)
    assert metrics["candidates"] == 0
    assert (server.waiting, server.made) == ({}, {})
    assert SMALL.message(server, "client00") == Lesson(None, tuple(server.known))
    # What they say on the public data counts all the same where all that were ever heard do.
    heard, _ = replace(SMALL, tuning_targets="both", donors="all").server_step(NOTHING, uploads_of(cohort), view)
    assert set(heard.said) == set(cohort.networks)


def test_the_order_of_replies_does_not_matter() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=4)
    view = InProcess(SMALL, Workers(cohort)).server_view(1)
    uploads = uploads_of(cohort)
    first, metrics = SMALL.server_step(NOTHING, uploads, view)
    second, again = SMALL.server_step(NOTHING, dict(reversed(uploads.items())), view)
    assert pack(first) == pack(second)
    assert {name: value for name, value in metrics.items() if "seconds" not in name} == {
        name: value for name, value in again.items() if "seconds" not in name
    }


def test_teachers_that_clients_share_are_kept_once_and_only_while_one_waits() -> None:
    cohort = make_cohort("mlp", clients=4)
    algorithm = PFedHR.paper(groups=3, candidates=1, tuning_epochs=0, probe=16)
    view = InProcess(algorithm, Workers(cohort)).server_view
    uploads = uploads_of(cohort)
    server, _ = algorithm.server_step(NOTHING, uploads, view(1))
    assert (len(server.waiting), len(server.made)) == (4, 1)
    later, _ = algorithm.server_step(
        server, {client: uploads[client] for client in ("client00", "client01", "client02")}, view(2)
    )
    assert len(later.made) == 2
    last, _ = algorithm.server_step(later, {"client03": uploads["client03"], "client00": uploads["client00"]}, view(3))
    assert set(last.made) == set(last.waiting.values())


def test_the_only_upload_of_its_structure_is_not_its_own_teacher_when_structures_are_averaged() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=2)
    algorithm = PFedHR.paper(groups=2, candidates=200, tuning_epochs=0, average_structures=True, repeat_groups=True, probe=16)
    view = InProcess(algorithm, Workers(cohort)).server_view(1)
    server, _ = algorithm.server_step(NOTHING, uploads_of(cohort), view)
    for client in cohort.networks:
        assert str(algorithm.message(server, client).teacher.recipe) != " ".join(f"{client}.{at}" for at in (1, 2, 3, 4))


def test_the_size_of_a_teacher_is_told_beside_its_students() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=2)
    uploads = uploads_of(cohort)
    server, metrics = SMALL.server_step(NOTHING, uploads, InProcess(SMALL, Workers(cohort)).server_view(1))
    for client, sent in uploads.items():
        own = sum(value.numel() for value in sent.weights.values())
        teacher = sum(value.numel() for value in SMALL.message(server, client).teacher.weights.values())
        assert metrics["size_ratios"][client] == pytest.approx((teacher - own) / own, abs=1e-6)
    assert any(metrics["size_ratios"].values())


def test_stitches_of_several_layers_go_down_with_their_teacher() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=2)
    algorithm = replace(SMALL, stitch_layers=3)
    view = InProcess(algorithm, Workers(cohort)).server_view(1)
    server, metrics = algorithm.server_step(NOTHING, uploads_of(cohort), view)
    _, plain = SMALL.server_step(NOTHING, uploads_of(cohort), view)
    assert metrics["candidates"] == plain["candidates"]
    teacher = algorithm.message(server, "client00").teacher
    stitches = {name.split(".")[0] for name in teacher.weights if name.startswith("stitch")}
    assert stitches
    for stitch in stitches:
        shapes = [value.shape for name, value in teacher.weights.items() if name.startswith(f"{stitch}.") and value.dim() > 1]
        assert len(shapes) == 3
        assert shapes[1] == shapes[2]
        assert shapes[1][0] == shapes[1][1] == shapes[0][0]  # the target's width
    images = view.public.ready(torch.device("cpu")).inputs
    assert torch.equal(
        predict(teacher_network(teacher), images), predict(teacher_network(unpack(Teacher, pack(teacher))), images)
    )


def test_full_stitches_are_told() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=2)
    algorithm = PFedHR.paper(groups=3, candidates=4, tuning_epochs=1, stitch="full", probe=16)
    view = InProcess(algorithm, Workers(cohort)).server_view(1)
    server, metrics = algorithm.server_step(NOTHING, uploads_of(cohort), view)
    assert all(metrics["full_stitches"][client] >= 1 for client in cohort.networks)
    assert all(metrics["stitch_sizes"][client] > 0 for client in cohort.networks)
    teacher_network(algorithm.message(server, "client00").teacher)


def test_a_teacher_equal_to_the_student_teaches_nothing() -> None:
    # Through a teacher that is the student's own network, in eval mode
    cohort = make_cohort("mlp", clients=1)
    view = cohort.client_view("client00", 1)
    model, own = initial_network(cohort, "client00"), own_chain(cohort, "client00")
    images = view.train.ready(view.device).inputs
    logits = predict(model, images)
    term = PFedHR.paper(distil_weight=1.0)._term(own, view)
    assert term is not None
    assert term(logits, torch.arange(len(images))).item() == pytest.approx(0, abs=1e-6)


def test_stages_are_timed_and_groups_told() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=2)
    _, metrics = SMALL.server_step(NOTHING, uploads_of(cohort), InProcess(SMALL, Workers(cohort)).server_view(1))
    stages = ["profile", "group", "propose", "assemble", "tune", "match"]
    assert [name for name in metrics if "seconds" in name] == [f"{stage}_seconds" for stage in stages]
    members = sorted(name for group in metrics["groups"] for name in group)
    assert members == sorted([f"client00.{at}" for at in (1, 2, 3, 4)] + [f"client01.{at}" for at in (1, 2, 3, 4)])


def test_solving_is_timed_as_a_part_of_assembling(monkeypatch: pytest.MonkeyPatch) -> None:
    # The tables of results have the stages of STAGES alone: time under another name would be in no column of theirs.
    pause = 0.2

    def slow(*parts: Any) -> dict[Recipe, Tuned]:
        time.sleep(pause)
        return solve_drafts(*parts)

    monkeypatch.setattr("pfedhr.algorithms.reassembling.solve_drafts", slow)
    cohort = make_cohort("cnn1", "mlp", clients=2)
    solved = replace(SMALL, stitch_start="solved", tuning_epochs=0)
    _, metrics = solved.server_step(NOTHING, uploads_of(cohort), InProcess(solved, Workers(cohort)).server_view(1))
    assert metrics["assemble_seconds"] >= pause
    assert {name for name in metrics if "seconds" in name} <= {f"{stage}_seconds" for stage in STAGES}


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


def test_a_structure_is_described_once_and_a_server_that_knows_it_is_sent_its_hash_only() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=2)
    view = InProcess(SMALL, Workers(cohort)).server_view
    first = uploads_of(cohort)
    server, _ = SMALL.server_step(NOTHING, first, view(1))
    lesson = SMALL.message(server, "client01")
    assert set(lesson.known) == {sent.structure for sent in first.values()}
    client_view = cohort.client_view("client01", 2)
    _, again, _ = SMALL.client_step(SMALL.init_client(client_view), lesson, client_view)
    assert again.blueprint is None
    assert again.structure == first["client01"].structure
    after, _ = SMALL.server_step(server, {"client01": again}, view(2))
    assert after.known == server.known
    with pytest.raises(ParcelError, match=r"client01 uploaded a network of structure .* which it never described"):
        SMALL.server_step(NOTHING, {"client01": again}, view(2))


def test_a_draft_is_what_its_recipe_assembles_and_carries_only_the_blocks_that_it_uses() -> None:
    cohort = make_cohort("cnn1", "resnet", clients=2)
    held = sources(cohort)
    bank = deposit_sources(held, torch.device("cpu"))
    probe = cohort.federation.public.ready(torch.device("cpu")).inputs
    groups = group(block_similarity(profile(bank, probe)), 3)
    recipes = propose(groups, bank, limit=6, rng=generator(0))
    assert len({owner for recipe in recipes for owner in recipe.owners}) == 2
    for recipe in recipes:
        with seeded(1, "stitches"):
            teacher = draft(recipe, bank, held, "light", 1)
        with seeded(1, "stitches"):
            whole = assemble(recipe, bank)
        assert torch.equal(predict(teacher_network(teacher), probe), predict(whole, probe))
        assert list(teacher.parts) == [name for name, _ in whole.named_children()]
        assert sum(value.numel() for value in teacher.weights.values()) == sum(v.numel() for v in whole.state_dict().values())


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
