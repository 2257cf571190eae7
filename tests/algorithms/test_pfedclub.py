from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from test_contract import run
from toy import make_cohort

from pfedhr.algorithm import ServerView, SettingError, Setup
from pfedhr.algorithms.lessons import Lesson, Taught, Teachers
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.own import Own
from pfedhr.algorithms.pfedclub import PFedClub
from pfedhr.algorithms.private import initial_weights, restore
from pfedhr.algorithms.teacher import Teacher, draft, size, teacher_network
from pfedhr.algorithms.tuning import FrozenBlocks, TuningJob, tune
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
    Sizes,
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


@pytest.mark.parametrize("labelled", [True, False])
def test_blocks_stay_as_they_were_bit_for_bit_and_stitches_learn(labelled: bool) -> None:
    # With batch norms in the blocks of cnn4 and resnet
    cohort = make_cohort("cnn4", "resnet", clients=2, labelled=labelled)
    held, bank = bank_of(cohort)
    recipe = Recipe((BlockRef("client00", 1), BlockRef("client01", 2), BlockRef("client00", 3), BlockRef("client01", 3)))
    untuned = draft(recipe, bank, held, "light", 1)
    assert any(name.startswith("head") for name in untuned.parts)
    assert any(name.endswith("running_mean") for name in untuned.weights)
    job = TuningJob(untuned, Training(2, 8, 1e-2), 0.07)
    view = server_view(cohort)
    tuned = tune(replace(job, frozen=True), view)
    for name, value in tuned.teacher.weights.items():
        assert torch.equal(value, untuned.weights[name]) is name.startswith("block"), name
    assert torch.equal(predict(teacher_network(tuned.teacher), images_of(cohort)), tuned.logits)
    free = tune(job, view)
    assert any(
        not torch.equal(value, untuned.weights[name])
        for name, value in free.teacher.weights.items()
        if name.startswith("block")
    )


def test_frozen_blocks_stay_in_eval_mode_but_for_recurrent_layers() -> None:
    network = torch.nn.Sequential()
    network.add_module("block1", torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5)))
    network.add_module("stitch2_light", torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()))
    network.add_module("block2", torch.nn.Sequential(torch.nn.LSTM(4, 4, num_layers=2, dropout=0.5)))
    model = FrozenBlocks(network).train()
    modes = {name: module.training for name, module in model.named_modules() if name}
    assert {name for name, training in modes.items() if training} == {
        "stitch2_light", "stitch2_light.0", "stitch2_light.1", "block2.0",
    }  # fmt: skip
    assert not any(module.training for module in model.eval().modules())
    # Dropout between recurrent layers is no module of its own: what it drops would be drawn anew each time.
    sequence = torch.ones(3, 2, 4)
    layers = model.train().get_submodule("block2")
    assert torch.equal(layers(sequence)[0], layers(sequence)[0])
    assert torch.equal(layers(sequence)[0], model.eval().get_submodule("block2")(sequence)[0])
    assert [name for name, value in model.named_parameters() if value.requires_grad] == [
        "stitch2_light.0.weight",
        "stitch2_light.0.bias",
    ]


def test_a_network_of_frozen_blocks_alone_stays_what_it_is() -> None:
    cohort = make_cohort("cnn1", clients=1)
    held, bank = bank_of(cohort)
    teacher = draft(Recipe(bank.chain("client00")), bank, held, "light", 1)
    tuned = tune(TuningJob(teacher, Training(3, 8, 1e-2), 0.07, frozen=True), server_view(cohort))
    assert pack(tuned.teacher) == pack(teacher)
    assert torch.equal(tuned.logits, predict(own_network(cohort, "client00"), images_of(cohort)))


def test_candidates_are_matched_with_the_upload_as_it_came() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=4)
    server, metrics = step(cohort, replace(SMALL, tuning_epochs=2))
    images = images_of(cohort)
    held, _ = bank_of(cohort)
    for row, client in zip(metrics["scores"], held, strict=True):
        if (teacher := SMALL.message(server, client).teacher) is None:
            continue
        own = predict(own_network(cohort, client), images)
        cosine = torch.nn.functional.cosine_similarity(own, predict(teacher_network(teacher), images)).mean().item()
        assert any(abs(value - cosine) < 1e-5 for value in row)
    assert server.waiting


def test_a_candidate_of_several_clients_is_tuned_once() -> None:
    # Two clients with the same weights: their groups hold the same blocks, and one anchor gives both the same candidates.
    cohort = make_cohort("mlp", clients=2)
    uploads = dict.fromkeys(cohort.networks, upload_of(cohort, "client00"))
    algorithm = replace(SMALL, candidates=1000, tuning_epochs=0)
    shared = []
    for round in (1, 2, 3, 4):
        jobs: list[TuningJob] = []
        view = server_view(cohort, round, algorithm)

        def watched(work: object, given: Sequence[TuningJob], result: type, jobs: list = jobs, view: ServerView = view) -> list:
            jobs.extend(given)
            return view.map(work, given, result)

        _, metrics = algorithm.server_step(Teachers({}, {}, {}, {}), uploads, replace(view, map=watched))
        recipes = [job.teacher.recipe for job in jobs]
        assert len(set(recipes)) == len(recipes)
        assert set(recipes) >= {Recipe(tuple(BlockRef(client, at) for at in (1, 2, 3, 4))) for client in cohort.networks}
        assert all(job.frozen and job.temperature == 0.07 for job in jobs)
        shared.append(sum(metrics["found"].values()) - len(metrics["own_chains_left_out"]) - metrics["candidates"])
    assert min(shared) >= 0
    assert max(shared) > 0


def test_a_client_is_taught_only_by_its_own_candidates() -> None:
    cohort = make_cohort("cnn1", "cnn4", clients=4)
    server, metrics = step(cohort)
    held, bank = bank_of(cohort)
    order = torch.randperm(16, generator=generator(cohort.seed, "probe"))[:8]
    similarity = block_similarity(profile(bank, images_of(cohort)[order]))
    groups = group(similarity, 3)
    assert [[str(ref) for ref in members] for members in groups] == metrics["groups"]
    for client in server.waiting:
        found = complete(client, groups, bank, similarity, limit=3, rng=generator(cohort.seed, 1, client, "candidates"))
        assert SMALL.message(server, client).teacher.recipe in found.recipes
        assert metrics["found"][client] == found.total
    assert len(held["client00"].plans) != len(held["client01"].plans)


@pytest.mark.parametrize("budget", [0.0, 0.1, 2.0])
def test_no_teacher_is_larger_than_its_budget_unless_told(budget: float) -> None:
    cohort = make_cohort("cnn1", "cnn4", "resnet", "mlp")
    algorithm = replace(SMALL, tuning_epochs=0, size_budget=budget)
    server, metrics = step(cohort, algorithm)
    held, _ = bank_of(cohort)
    for client in server.waiting:
        teacher = algorithm.message(server, client).teacher
        own = sum(value.numel() for value in held[client].weights.values())
        assert (size(teacher) <= (1 + budget) * own) is (client not in metrics["over_budget"])
        assert metrics["size_ratios"][client] == pytest.approx((size(teacher) - own) / own, abs=1e-6)
    _, free = step(cohort, replace(SMALL, tuning_epochs=0))
    assert free["over_budget"] == []
    assert max(free["size_ratios"].values()) > 2
    assert free["found"] == metrics["found"]  # counted before the budget


def test_with_no_room_for_stitches_a_teacher_of_equal_networks_is_no_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = make_cohort("mlp", clients=3)
    _, bank = bank_of(cohort)
    by_index = tuple(tuple(ref for ref in bank if ref.index == index) for index in (1, 2, 3, 4))
    monkeypatch.setattr("pfedhr.algorithms.pfedclub.group", lambda similarity, count: by_index)
    algorithm = replace(SMALL, groups=4, tuning_epochs=0, size_budget=0.0, candidates=50)
    whole = {str(Recipe(bank.chain(client))) for client in bank.owners}
    kinds = set()
    for round in range(1, 5):
        server, metrics = step(cohort, algorithm, round)
        for client in server.waiting:
            teacher = algorithm.message(server, client).teacher
            stitched = any(name.startswith(("stitch", "head")) for name in teacher.weights)
            kinds.add(stitched)
            # Without a stitch it is another client's network; with one where the anchor is the client's own first block.
            assert metrics["over_budget"].count(client) == stitched
            assert (str(teacher.recipe) in whole) is not stitched
            assert (teacher.recipe.blocks[0].owner == client) is stitched
            assert stitched or metrics["size_ratios"][client] == 0
    assert kinds == {True, False}


@pytest.mark.parametrize(("kind", "layers"), [("light", 1), ("light", 3), ("full", 2)])
def test_a_draft_is_as_large_as_it_was_said_to_be(kind: str, layers: int) -> None:
    cohort = make_cohort("cnn4", "resnet", "cnn1", clients=3)
    held, bank = bank_of(cohort)
    similarity = block_similarity(profile(bank, images_of(cohort)))
    sizes = Sizes(bank, kind, layers)
    for client in cohort.networks:
        own = Recipe(bank.chain(client))
        assert sizes.whole(own) == sum(value.numel() for value in held[client].weights.values())
        for recipe in (own, *complete(client, group(similarity, 3), bank, similarity, limit=5, rng=generator(0)).recipes):
            assert sizes.whole(recipe) == size(draft(recipe, bank, held, kind, 1, layers))


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


def test_a_client_keeps_its_last_teacher() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=4)
    server, _ = step(cohort)
    client = min(server.waiting)
    view = cohort.client_view(client, 5)
    state, _, _ = SMALL.client_step(SMALL.init_client(view), SMALL.message(server, client), view)
    assert isinstance(state.teacher, Teacher)
    later, _, _ = SMALL.client_step(state, Lesson(None, ()), view)
    assert later.teacher is state.teacher


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
