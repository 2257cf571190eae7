"""The teachers of pFedHR: when they go down, how long they serve, what they carry, and what is told of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from toy import equal, make_cohort
from toy_uploads import NOTHING, SMALL, initial_network, own_chain, sources, uploads_of

from pfedhr.algorithms.lessons import Lesson, Taught
from pfedhr.algorithms.local import Local, Own
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.private import initial_weights
from pfedhr.algorithms.teacher import Teacher, draft, teacher_network
from pfedhr.algorithms.tuning import TuningJob, tune
from pfedhr.algorithms.uploads import deposit_sources
from pfedhr.in_process import InProcess, Workers
from pfedhr.inference import predict
from pfedhr.learning import Training
from pfedhr.parcel import pack, unpack
from pfedhr.reassembly import (
    assemble,
    block_similarity,
    group,
    profile,
    propose,
)
from pfedhr.seeding import generator, seeded


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
