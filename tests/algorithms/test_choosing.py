"""Which candidates a client may have, which it gets, and which are tuned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from toy import equal, likeness, make_cohort
from toy_uploads import NOTHING, own_chain, uploads_of

from pfedhr.algorithm import SettingError, Setup
from pfedhr.algorithms.assignment import assign, within_budget
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.teacher import Teacher, size, teacher_network
from pfedhr.algorithms.tuning import Tuned, TuningJob, tune
from pfedhr.in_process import Cohort, sequential
from pfedhr.inference import predict
from pfedhr.reassembly import BlockRef, Recipe

SMALL = PFedHR.paper(groups=3, candidates=6, tuning_epochs=1, probe=8)
SOLVED = replace(SMALL, stitch_start="solved")


def teachers_of(algorithm: PFedHR, cohort: Cohort) -> tuple[dict[str, Teacher], list[str], dict[str, Any]]:
    """The teachers that the server makes of every client's initial network, the recipes that it tunes, and its record."""
    tuned: list[str] = []

    def watched(work: Any, jobs: Sequence[TuningJob], result: type[Any]) -> list[Any]:
        tuned.extend(str(job.teacher.recipe) for job in jobs)
        return [work(job, view) for job in jobs]

    view = cohort.server_view(1, watched)
    server, metrics = algorithm.server_step(NOTHING, uploads_of(cohort), view)
    return {client: server.made[name] for client, name in server.waiting.items()}, tuned, metrics


def of_size(values: int, owner: str) -> Teacher:
    return Teacher(Recipe((BlockRef(owner, 1),)), {}, 1, {"block1.weight": torch.zeros(values)})


def test_candidates_within_budget_are_offered_and_the_smallest_where_none_is() -> None:
    chains = {"large": of_size(100, "large"), "small": of_size(10, "small")}
    candidates = {one.recipe: one for one in (of_size(150, "c"), of_size(151, "d"), of_size(40, "e"), chains["small"])}
    c, d, e, small = candidates
    assert within_budget(chains, candidates, float("inf")) == {"large": [c, d, e, small], "small": [c, d, e, small]}
    assert within_budget(chains, candidates, 0.5) == {"large": [c, e, small], "small": [e, small]}
    assert within_budget(chains, candidates, -0.95) == {"large": [small], "small": [e, small]}
    assert within_budget({"small": chains["small"]}, {small: chains["small"]}, 0.0) == {"small": [small]}
    assert within_budget(chains, {}, 0.0) == {"large": [], "small": []}


def test_a_client_whose_logits_are_not_finite_is_like_no_candidate() -> None:
    """They may be finite on the few inputs on which its upload was tried."""
    held = [of_size(values, owner) for values, owner in ((10, "broken"), (20, "sound"), (30, "first"), (40, "second"))]
    logits = dict(zip([one.recipe for one in held], torch.randn(4, 6, 3), strict=True))
    logits[held[0].recipe][2, 1] = torch.inf
    tuned = {one.recipe: Tuned(one, logits[one.recipe], sound=one is not held[0]) for one in held}
    chains = {"broken": held[0].recipe, "sound": held[1].recipe}
    offered = {client: [one.recipe for one in held[2:]] for client in chains}
    teachers, told = assign(chains, offered, tuned)
    expected, described = assign({"sound": held[1].recipe}, offered, tuned)
    assert teachers == expected
    assert told == described
    assert list(teachers) == list(told["scores"]) == ["sound"]
    json.dumps(told, allow_nan=False)
    assert assign({"broken": held[0].recipe}, offered, tuned) == ({}, {})


@pytest.mark.parametrize("budget", [-0.1, -0.7])
def test_teachers_keep_to_the_budget_and_where_no_candidate_does_are_the_smallest(budget: float) -> None:
    cohort = make_cohort("cnn1", "cnn2", "mlp")
    free, _, without = teachers_of(SMALL, cohort)
    held, _, metrics = teachers_of(replace(SMALL, size_budget=budget), cohort)
    over = {client for client, ratio in without["size_ratios"].items() if ratio > budget}
    assert over
    smallest = min(size(one) for one in (*held.values(), *free.values()))
    for client, one in held.items():
        assert metrics["size_ratios"][client] <= budget or size(one) == smallest
        assert (one.recipe == free[client].recipe) is (client not in over or size(free[client]) == smallest)


@pytest.mark.parametrize("labelled", [True, False])
def test_the_candidate_of_most_benefit_is_the_slow_loops(labelled: bool) -> None:
    """Nothing is tuned, so that the candidates can be made again here."""
    cohort = make_cohort("cnn1", "mlp", labelled=labelled)
    algorithm = replace(SOLVED, tuning_epochs=0, match="benefit", candidates=8)
    teachers, _, metrics = teachers_of(algorithm, cohort)
    public = cohort.federation.public.ready(cohort.device)
    networks = {client: own_chain(cohort, client) for client in cohort.networks}
    said = {client: predict(teacher_network(one), public.inputs).softmax(1) for client, one in networks.items()}
    known = sum(said.values()) / len(said)
    if labelled:
        known = (known + torch.nn.functional.one_hot(public.labels, known.shape[1])) / 2
    for client in sorted(said):
        lack = known * (1 - said[client])
        had = (lack * predict(teacher_network(teachers[client]), public.inputs).softmax(1)).sum() / lack.sum()
        row = metrics["scores"][client]
        assert had.item() == pytest.approx(max(row), abs=1e-4)
    likeness, *_ = teachers_of(replace(algorithm, match="likeness"), cohort)
    assert {client: one.recipe for client, one in likeness.items()} != {client: one.recipe for client, one in teachers.items()}


def test_those_chosen_as_they_were_solved_are_tuned_alone() -> None:
    """As slowly: choose among the solved, then tune what was chosen."""
    cohort = make_cohort("cnn1", "cnn2", "mlp")
    every, tuned_all, _ = teachers_of(SOLVED, cohort)
    solved, none, _ = teachers_of(replace(SOLVED, tuning_epochs=0), cohort)
    chosen, tuned, metrics = teachers_of(replace(SOLVED, tuned_candidates="chosen"), cohort)
    assert none == []
    assert sorted(tuned) == sorted({str(one.recipe) for one in chosen.values()})
    assert len(tuned) < len(tuned_all)
    assert {client: one.recipe for client, one in chosen.items()} == {client: one.recipe for client, one in solved.items()}
    assert metrics["teachers"] == {client: str(one.recipe) for client, one in solved.items()}
    view = sequential(lambda map: cohort.server_view(1, map))
    for client, one in solved.items():
        slow = tune(TuningJob(one, SOLVED._tuning, SOLVED.contrastive_temperature), view).teacher
        assert equal(slow.weights, chosen[client].weights)
        assert not equal(one.weights, chosen[client].weights)
        if every[client].recipe == one.recipe:  # chosen after the tuning, but the same one
            assert equal(every[client].weights, chosen[client].weights)


@pytest.mark.parametrize("chosen", [False, True])
def test_a_candidate_is_compared_with_the_clients_network_as_far_tuned_as_itself(chosen: bool) -> None:
    cohort = make_cohort("cnn1", "mlp")
    form = replace(SOLVED, tuned_candidates="chosen") if chosen else SMALL
    form = replace(form, candidates=3, tuning_epochs=8)
    _, _, metrics = teachers_of(form, cohort)
    compared, _, _ = teachers_of(replace(form, tuning_epochs=0) if chosen else form, cohort)
    inputs, view = cohort.federation.public.ready(cohort.device).inputs, sequential(lambda map: cohort.server_view(1, map))
    for client in sorted(cohort.networks):
        untuned = own_chain(cohort, client)
        tuned = tune(TuningJob(untuned, form._tuning, form.contrastive_temperature), view).teacher
        said = predict(teacher_network(compared[client]), inputs)
        alike, other = (
            likeness(predict(teacher_network(one), inputs), said) for one in ((untuned, tuned) if chosen else (tuned, untuned))
        )
        assert metrics["teachers"][client] == str(compared[client].recipe)
        assert max(metrics["scores"][client]) == pytest.approx(alike, abs=1e-5)
        assert abs(alike - other) > 1e-3


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"match": "benefit"}, r'algorithm.match = benefit.*algorithm.teachers = "reassembled"'),
        ({"size_budget": 0.5}, r'algorithm.size_budget = 0.5.*algorithm.teachers = "reassembled"'),
        ({"tuned_candidates": "chosen"}, r'algorithm.tuned_candidates = chosen.*algorithm.teachers = "reassembled"'),
        ({**vars(SMALL), "tuned_candidates": "chosen"}, r'algorithm.stitch_start = "solved"'),
        ({**vars(SMALL), "size_budget": -1.0}, r"algorithm.size_budget = -1.0.*above -1"),
    ],
)
def test_a_choice_without_candidates_and_a_budget_that_nothing_keeps_to_are_refused(form: dict[str, Any], message: str) -> None:
    cohort = make_cohort("mlp")
    with pytest.raises(SettingError, match=message):
        PFedHR(**form).check(Setup(cohort.networks, cohort.federation.public, cohort.training, 2))
