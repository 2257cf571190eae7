from __future__ import annotations

import functools
import math
from dataclasses import replace

import pytest
import torch
from toy import make_cohort
from toy_rounds import run

from pfedhr.algorithm import ServerView, SettingError, Setup
from pfedhr.algorithms.lessons import Taught, Teachers
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.own import Own
from pfedhr.algorithms.pfedclub import PFedClub
from pfedhr.algorithms.private import initial_weights, restore
from pfedhr.algorithms.teacher import draft, teacher_network
from pfedhr.algorithms.tuning import TuningJob, tune
from pfedhr.algorithms.uploads import Source, Upload, deposit_sources, learn_structures, sources_of, upload
from pfedhr.experiment_file import dump, load_experiment, override, parse
from pfedhr.federate import Schedule
from pfedhr.in_process import Cohort, InProcess, Workers
from pfedhr.inference import predict
from pfedhr.learning import Training
from pfedhr.parcel import pack, unpack
from pfedhr.reassembly import (
    BlockBank,
    BlockRef,
    Recipe,
    block_similarity,
    complete,
    group,
    match_logits,
    profile,
)
from pfedhr.seeding import generator

SMALL = PFedClub(groups=3, candidates=3, tuning_epochs=1, probe=8)


CPU = torch.device("cpu")


def upload_of(cohort: Cohort, client: str) -> Upload:
    view = cohort.client_view(client, 1)
    return upload(view.network, initial_weights(view), view.train.ready(view.device).inputs, ())


def uploads_of(cohort: Cohort) -> dict[str, Upload]:
    return {client: upload_of(cohort, client) for client in cohort.networks}


def bank_of(cohort: Cohort) -> tuple[dict[str, Source], BlockBank]:
    uploads = uploads_of(cohort)
    held = sources_of(uploads, learn_structures({}, uploads), 0)
    return held, deposit_sources(held, CPU)


def server_view(cohort: Cohort, round: int = 1, algorithm: PFedClub = SMALL) -> ServerView:
    return InProcess(algorithm, Workers(cohort)).server_view(round)


def step(cohort: Cohort, algorithm: PFedClub = SMALL, round: int = 1) -> tuple[Teachers, dict[str, object]]:
    return algorithm.server_step(Teachers({}, {}, {}, {}), uploads_of(cohort), server_view(cohort, round, algorithm))


def images_of(cohort: Cohort) -> torch.Tensor:
    return cohort.federation.public.ready(CPU).inputs


def own_network(cohort: Cohort, client: str) -> torch.nn.Module:
    view = cohort.client_view(client, 1)
    return restore(view.network, initial_weights(view))


def test_without_weight_on_the_teacher_it_is_local_bit_for_bit() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=4)
    schedule = Schedule(3, 3)
    _, alone = run(Local(), cohort, schedule)
    _, taught = run(replace(SMALL, distil_weight=0.0), cohort, schedule)
    for client in cohort.networks:
        own, other = unpack(Own, alone[client]).weights, unpack(Taught, taught[client]).weights
        assert all(torch.equal(own[name], other[name]) for name in own)
    _, weighted = run(SMALL, cohort, schedule)
    assert weighted != taught  # the teacher does make a difference otherwise


def test_every_teacher_has_as_many_blocks_as_its_students_network() -> None:
    cohort = make_cohort("cnn1", "cnn4", "resnet", "mlp")
    held, _ = bank_of(cohort)
    for round in (1, 2, 3):
        server, metrics = step(cohort, replace(SMALL, tuning_epochs=0), round)
        assert server.waiting
        for client in server.waiting:
            recipe = SMALL.message(server, client).teacher.recipe
            assert len(recipe.blocks) == len(held[client].plans)
            assert set(recipe.blocks) != {BlockRef(client, at) for at in range(1, len(recipe.blocks) + 1)}
        assert set(metrics["found"]) == set(cohort.networks)
        assert metrics["candidates"] <= sum(min(count, 3) for count in metrics["found"].values())


def test_the_anchor_is_drawn_anew_each_round() -> None:
    cohort = make_cohort("cnn1", clients=4)
    teachers = []
    for round in range(1, 7):
        server, _ = step(cohort, replace(SMALL, tuning_epochs=0, groups=4), round)
        teachers.append(SMALL.message(server, "client00").teacher)
    assert len({teacher.recipe.blocks[0] for teacher in teachers if teacher}) > 1


def test_an_own_chain_that_is_not_left_out_is_the_best_match() -> None:
    # The anchor is the own first block
    cohort = make_cohort("cnn1", "mlp", clients=2)
    held, bank = bank_of(cohort)
    images = images_of(cohort)
    similarity = block_similarity(profile(bank, images))
    groups = group(similarity, 3)
    own = Recipe(bank.chain("client00"))
    tried = 0
    for seed in range(8):
        found = complete("client00", groups, bank, similarity, limit=1000, rng=generator(seed), exclude_own=False)
        if found.recipes[0].blocks[0] != own.blocks[0]:
            continue
        tried += 1
        assert own in found.recipes
        job = TuningJob(draft(own, bank, held, "light", 1), Training(1, 8, 1e-3), 0.5, frozen=True)
        logits = {own: tune(job, server_view(cohort)).logits}
        for recipe in found.recipes:
            if recipe != own:
                logits[recipe] = predict(teacher_network(draft(recipe, bank, held, "light", 1)), images)
        model = predict(own_network(cohort, "client00"), images)
        matching = match_logits({"client00": model}, [logits[recipe] for recipe in found.recipes])
        assert found.recipes[matching.choice["client00"]] == own
        assert matching.scores.max().item() == pytest.approx(1, abs=1e-5)
    assert tried


def test_candidates_are_matched_with_the_upload_as_it_came() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=4)
    server, metrics = step(cohort, replace(SMALL, tuning_epochs=2))
    images = images_of(cohort)
    held, _ = bank_of(cohort)
    assert list(metrics["scores"]) == list(held)
    for client, row in metrics["scores"].items():
        if (teacher := SMALL.message(server, client).teacher) is None:
            continue
        own = predict(own_network(cohort, client), images)
        cosine = torch.nn.functional.cosine_similarity(own, predict(teacher_network(teacher), images)).mean().item()
        assert any(abs(value - cosine) < 1e-5 for value in row)
    assert server.waiting


@pytest.mark.parametrize(
    "options",
    [
        {"anchor": "similar"},
        {"anchor": "smallest"},
        {"increasing_index": False},
        {"completion": False},
        {"operation_order": False},
        {"stitch_layers": 2},
        {"stitch": "full"},
    ],
    ids=str,
)
def test_the_variants_run_and_each_changes_something(options: dict[str, object]) -> None:
    assert variant(**options) != variant()


@functools.cache
def variant(**options: object) -> list[bytes]:
    """The server's states after the first rounds of a small federation."""
    algorithm = PFedClub(**{"groups": 3, "candidates": 3, "tuning_epochs": 0, "probe": 8, **options})
    cohort = make_cohort("cnn1", "cnn3", "mlp", clients=4)
    return [pack(step(cohort, algorithm, round)[0]) for round in (1, 2, 3)]


def test_one_reply_is_enough() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=2)
    server, _ = step(cohort)
    # Alone, with a group for each block, a client has its own chain only.
    algorithm = replace(SMALL, groups=4)
    alone, metrics = algorithm.server_step(server, {"client00": upload_of(cohort, "client00")}, server_view(cohort, 2))
    assert metrics["own_chains_left_out"] == ["client00"]
    assert metrics["candidates"] == 0
    assert "client00" not in alone.waiting
    assert alone.waiting.get("client01") == server.waiting.get("client01")


def test_the_order_of_replies_does_not_matter() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=4)
    uploads = uploads_of(cohort)
    first, _ = SMALL.server_step(Teachers({}, {}, {}, {}), uploads, server_view(cohort))
    second, _ = SMALL.server_step(Teachers({}, {}, {}, {}), dict(reversed(uploads.items())), server_view(cohort))
    assert pack(first) == pack(second)


def test_stages_are_timed() -> None:
    _, metrics = step(make_cohort("mlp", clients=2))
    stages = ["profile", "group", "propose", "assemble", "tune", "match"]
    assert [name for name in metrics if "seconds" in name] == [f"{stage}_seconds" for stage in stages]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("size_budget", -1.0), ("size_budget", math.nan), ("stitch_layers", 0), ("groups", 1), ("candidates", 0)],
)
def test_settings_out_of_range_are_named(setting: str, value: float) -> None:
    cohort = make_cohort("mlp", clients=2)
    setup = Setup(cohort.networks, cohort.federation.public, cohort.training, 2)
    PFedClub().check(setup)
    with pytest.raises(SettingError, match=f"algorithm.{setting} = {value} of pfedclub: choose"):
        PFedClub(**{setting: value}).check(setup)


def test_more_groups_than_a_round_has_blocks_are_refused() -> None:
    cohort = make_cohort("cnn1", clients=2)
    with pytest.raises(SettingError, match=r"groups = 9.*8 blocks only.*at most 8"):
        PFedClub(groups=9).check(Setup(cohort.networks, cohort.federation.public, cohort.training, 2))


def test_what_it_takes_of_the_public_data_is_told() -> None:
    assert PFedClub().public_use(True) == "labels at the server"
    assert PFedClub().public_use(False) == "inputs at the server"
    assert PFedClub(tuning_epochs=0).public_use(True) == "inputs at the server"  # nothing learns, so no label is read


def test_no_budget_survives_the_experiment_file_and_a_budget_the_command_line() -> None:
    experiment = override(load_experiment("demo"), ["--algorithm.name", "pfedclub"])
    assert experiment.algorithm == PFedClub()
    assert parse(dump(experiment), "here") == experiment
    bounded = override(experiment, ["--algorithm.size-budget", "0.1", "--algorithm.anchor", "similar"])
    assert bounded.algorithm == PFedClub(size_budget=0.1, anchor="similar")
