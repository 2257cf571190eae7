from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from toy import make_cohort
from toy_rounds import run
from toy_uploads import NOTHING, SMALL, initial_network, own_chain, sources, uploads_of

from pfedhr.algorithms.candidates import tell_fewer
from pfedhr.algorithms.lessons import Lesson, Taught
from pfedhr.algorithms.local import Local, Own
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.solving import solve_drafts
from pfedhr.algorithms.stopwatch import STAGES
from pfedhr.algorithms.tuning import Tuned, TuningJob, tune
from pfedhr.algorithms.uploads import structure_means
from pfedhr.data import Unlabelled
from pfedhr.federate import Schedule
from pfedhr.in_process import InProcess, Workers
from pfedhr.learning import Training
from pfedhr.parcel import ParcelError, pack, unpack
from pfedhr.reassembly import (
    Recipe,
    assemble,
    block_similarity,
    deposit,
    group,
    match,
    profile,
    propose,
)
from pfedhr.seeding import generator


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
    assert max(metrics["scores"]["client00"]) == pytest.approx(1, abs=1e-5)  # it was a candidate
    assert server.made[server.waiting["client00"]].recipe != own

    tuned: list[Recipe] = []

    def watched(work: Any, jobs: Sequence[TuningJob], result: type) -> list[Any]:
        tuned.extend(job.teacher.recipe for job in jobs)
        return view.map(work, jobs, result)

    algorithm.server_step(NOTHING, uploads_of(cohort), replace(view, map=watched))
    assert tuned.count(own) == 1  # as a candidate and as the client's own network at once


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
    assert rows["client00"] != rows["client02"]  # two clients of one structure are told apart


def test_where_no_candidate_exists_fewer_groups_are_tried(caplog: pytest.LogCaptureFixture) -> None:
    tell_fewer.cache_clear()
    cohort = make_cohort("mlp", clients=2)
    # Two chains of four: no candidate has five blocks, so no five groups can all be in one.
    for groups in (7, 5):
        algorithm = PFedHR.paper(groups=groups, tuning_epochs=0, probe=16)
        _, metrics = algorithm.server_step(NOTHING, uploads_of(cohort), InProcess(algorithm, Workers(cohort)).server_view(1))
        assert 2 <= (made := len(metrics["groups"])) < 5
        assert f"blocks fall into {made} groups, not into the {groups} of algorithm.groups" in caplog.text
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


def test_the_only_upload_of_its_structure_is_not_its_own_teacher_when_structures_are_averaged() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=2)
    algorithm = PFedHR.paper(groups=2, candidates=200, tuning_epochs=0, average_structures=True, repeat_groups=True, probe=16)
    view = InProcess(algorithm, Workers(cohort)).server_view(1)
    server, _ = algorithm.server_step(NOTHING, uploads_of(cohort), view)
    for client in cohort.networks:
        assert str(algorithm.message(server, client).teacher.recipe) != " ".join(f"{client}.{at}" for at in (1, 2, 3, 4))


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
