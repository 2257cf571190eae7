"""The teachers of pFedClub: blocks that stay as they were, budgets, and one tuning for all who share one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from test_pfedclub import SMALL, bank_of, images_of, own_network, server_view, step, upload_of
from toy import make_cohort

from pfedhr.algorithm import ServerView
from pfedhr.algorithms.lessons import Lesson, Teachers
from pfedhr.algorithms.teacher import Teacher, draft, size, teacher_network
from pfedhr.algorithms.tuning import FrozenBlocks, TuningJob, tune
from pfedhr.inference import predict
from pfedhr.learning import Training
from pfedhr.parcel import pack
from pfedhr.reassembly import (
    BlockRef,
    Recipe,
    Sizes,
    block_similarity,
    complete,
    group,
    profile,
)
from pfedhr.seeding import generator


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


def test_a_client_keeps_its_last_teacher() -> None:
    cohort = make_cohort("cnn1", "mlp", clients=4)
    server, _ = step(cohort)
    client = min(server.waiting)
    view = cohort.client_view(client, 5)
    state, _, _ = SMALL.client_step(SMALL.init_client(view), SMALL.message(server, client), view)
    assert isinstance(state.teacher, Teacher)
    later, _, _ = SMALL.client_step(state, Lesson(None, ()), view)
    assert later.teacher is state.teacher
