"""Labels that teach only where they call classes as the clients do."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from toy import equal, make_cohort
from toy_uploads import NOTHING, uploads_of

from pfedhr.algorithm import SettingError, Setup
from pfedhr.algorithms import solving
from pfedhr.algorithms.label_names import called_alike, rarity
from pfedhr.algorithms.lessons import Teachers
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.solving import head_outputs
from pfedhr.data import Examples, Public
from pfedhr.in_process import Cohort, sequential
from pfedhr.parcel import Tensors, pack, unpack
from pfedhr.seeding import generator

CLASSES = 8
OWN_LABELS = torch.arange(16) % CLASSES
FORMS = [
    PFedHR(teachers="structure", tuning_epochs=2, probe=8),
    PFedHR(teachers="own", tuning_epochs=2, probe=8),
    PFedHR.paper(groups=3, candidates=2, tuning_epochs=1, probe=8, tuning_targets="both", donors="all"),
]
SOLVED = replace(FORMS[2], candidates=8, tuning_epochs=0, stitch_start="solved")


def said_of(labels: Tensor, classes: int = CLASSES, sureness: float = 0.3) -> Tensor:
    """What somebody says who is right, but not very sure."""
    rest = torch.rand(len(labels), classes, generator=generator(0, "said")).softmax(1)
    return (1 - sureness) * rest + sureness * functional.one_hot(labels, classes)


def exact_rarity(said: Tensor, labels: Tensor) -> float:
    """The share of all namings by which labels fit as well as by their own, by trying every one."""
    present = labels.unique().tolist()
    means = {label: said[labels == label].double().mean(0).tolist() for label in present}
    fits = [sum(means[label][name[label]] for label in present) for name in itertools.permutations(range(said.shape[1]))]
    return sum(fit >= fits[0] - 1e-12 for fit in fits) / len(fits)


@pytest.mark.parametrize("labels", [torch.arange(24) % 6, torch.tensor([0, 0, 0, 0, 0, 2, 2, 5])], ids=["all", "some"])
@pytest.mark.parametrize("sureness", [0.0, 0.01, 0.05])
def test_rarity_is_the_share_among_all_namings(labels: Tensor, sureness: float) -> None:
    said = said_of(labels, 6, sureness)
    found = rarity(said, labels, generator(0, "namings"))
    assert found == pytest.approx(exact_rarity(said, labels), abs=0.006)


def test_the_right_naming_of_six_is_one_of_720_and_one_among_alike_is_none() -> None:
    labels = torch.arange(60) % 6
    assert rarity(said_of(labels, 6, 0.9), labels, generator(0)) == pytest.approx(1 / 720, rel=0.3)
    assert rarity(torch.full((60, 6), 1 / 6), labels, generator(0)) == 1.0
    for number in range(20):  # always the same, whose sums differ by rounding alone
        same = torch.rand(6, generator=generator(number)).softmax(0).expand(60, 6)
        assert rarity(same, labels, generator(0)) == 1.0


def test_labels_that_only_share_the_numbers_of_classes_seldom_pass() -> None:
    """However well what is said tells them apart."""
    labels, rng = torch.arange(40) % CLASSES, generator(0, "other names")
    others = [torch.randperm(CLASSES, generator=rng)[labels] for _ in range(100)]
    rarities = torch.tensor([rarity(said_of(labels), other, generator(0)) for other in others])
    assert 0.02 <= (rarities < 0.1).float().mean() <= 0.2
    assert 0.35 <= rarities.mean() <= 0.65


def test_what_a_round_asks_for_adds_up_to_the_significance() -> None:
    labels = torch.arange(12) % 6
    said = said_of(labels, 6, 0.02)
    rare = rarity(said, labels, generator(0))
    assert 0.01 < rare < 0.3
    for round in (1, 2, 5):
        at_most = rare * round * (round + 1)
        assert not called_alike(said, labels, at_most * 0.999, round, generator(0))
        assert called_alike(said, labels, at_most * 1.001, round, generator(0))
    assert sum(1 / (round * (round + 1)) for round in range(1, 1000)) < 1


@pytest.mark.parametrize(
    ("classes", "occurring", "passes"),
    [(2, 2, True), (5, 5, True), (6, 6, False), (10, 1, True), (10, 2, True), (10, 3, False), (28, 2, False)],
)
def test_of_too_few_namings_none_can_be_told_from_chance(classes: int, occurring: int, passes: bool) -> None:
    """Neither of few classes, nor where few of many occur: there labels that are right could never pass either."""
    labels = torch.arange(10 * occurring) % occurring
    assert called_alike(said_of((labels + 1) % classes, classes), labels, 0.1, 1, generator(0)) is passes
    if not passes:
        assert called_alike(said_of(labels, classes, 0.9), labels, 0.1, 1, generator(0))


def test_the_own_naming_counts_among_the_random_ones() -> None:
    """Of ten classes' 3.6 million namings none of those drawn is the right one: without it the share would be 0."""
    labels = torch.arange(40) % 10
    assert rarity(said_of(labels, 10, 0.9), labels, generator(0)) == 1 / 100_001


def cohort_with(labels: Tensor) -> Cohort:
    """Clients of eight classes, and public examples that are labelled so."""
    cohort = make_cohort("cnn1", "mlp", clients=3)
    public = Examples(cohort.federation.public.inputs, labels)
    networks = {name: replace(network, classes=CLASSES) for name, network in cohort.networks.items()}
    return replace(cohort, federation=replace(cohort.federation, public=public, classes=CLASSES), networks=networks)


def step(algorithm: PFedHR, cohort: Cohort, server: Teachers, round: int = 1) -> tuple[Tensors, Teachers, dict[str, Any]]:
    view = sequential(lambda map: cohort.server_view(round, map))
    after, metrics = algorithm.server_step(server, uploads_of(cohort), view)
    made = {**after.made, **after.structures.teachers}
    return {f"{name}/{key}": value for name, one in made.items() for key, value in one.weights.items()}, after, metrics


AGREEING = replace(NOTHING, said={f"far away {number}": said_of(OWN_LABELS) for number in range(9)})


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.teachers)
def test_labels_teach_where_classes_have_their_names_and_wait_where_they_have_others(form: PFedHR) -> None:
    untested = replace(form, label_significance=1.0)
    own, other = cohort_with(OWN_LABELS), cohort_with((OWN_LABELS + 1) % CLASSES)
    (tested, _, told), (expected, _, untold) = step(form, own, AGREEING), step(untested, own, AGREEING)
    assert equal(tested, expected)
    assert (told["labels"], "labels" in untold) == (True, False)
    (tested, _, told), (misled, *_) = step(form, other, AGREEING), step(untested, other, AGREEING)
    expected, *_ = step(replace(form, tuning_targets="cohort"), other, AGREEING)
    assert equal(tested, expected)
    assert not equal(tested, misled)
    assert told["labels"] is False


@pytest.mark.parametrize("shift", [0, 1])
def test_heads_are_solved_and_candidates_chosen_without_labels_that_wait(shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = list[bool]()

    def watched(mean: Tensor, public: Public, labels: bool) -> Tensor:
        taken.append(labels)
        return head_outputs(mean, public, labels)

    monkeypatch.setattr(solving, "head_outputs", watched)
    form, cohort = replace(SOLVED, match="benefit"), cohort_with((OWN_LABELS + shift) % CLASSES)
    (_, _, tested), (_, _, without) = (step(one, cohort, AGREEING) for one in (form, replace(form, tuning_targets="cohort")))
    assert taken == [shift == 0, False]
    assert (tested["scores"] == without["scores"]) is (shift == 1)


def test_labels_that_have_passed_once_teach_ever_after() -> None:
    form, other = FORMS[0], cohort_with((OWN_LABELS + 1) % CLASSES)
    _, passed, _ = step(form, cohort_with(OWN_LABELS), AGREEING)
    _, waiting, _ = step(form, other, AGREEING)
    assert (passed.labels, waiting.labels) == (True, False)
    assert (unpack(Teachers, pack(passed)).labels, unpack(Teachers, pack(waiting)).labels) == (True, False)
    _, later, told = step(form, other, replace(AGREEING, labels=True), round=2)
    assert (later.labels, told["labels"]) == (True, True)
    _, later, told = step(form, other, replace(AGREEING, labels=False), round=2)
    assert (later.labels, told["labels"]) == (False, False)


def test_later_rounds_ask_for_more() -> None:
    """Of 100,000 namings no share is below 1 / 100,001: enough in the first round, and in the tenth too much."""
    form, cohort = replace(FORMS[0], label_significance=4e-4), cohort_with(OWN_LABELS)
    assert [step(form, cohort, AGREEING, round)[1].labels for round in (1, 10)] == [True, False]


def test_without_labels_nothing_is_told_of_them() -> None:
    (_, _, told), (_, _, untold) = (step(FORMS[0], make_cohort("cnn1", "mlp", labelled=one), NOTHING) for one in (True, False))
    assert ("labels" in told, "labels" in untold) == (True, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_significance": 0.0}, r"label_significance = 0\.0.*above 0"),
        ({"label_significance": 1.5}, r"label_significance = 1\.5.*from 0 to 1"),
        ({"label_significance": 0.5, "tuning_targets": "cohort"}, r"label_significance = 0\.5: labels are tested only"),
    ],
)
def test_settings_that_test_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    cohort = make_cohort("cnn1", "mlp")
    with pytest.raises(SettingError, match=message):
        PFedHR(**changes).check(Setup(cohort.networks, cohort.federation.public, cohort.training, 2))
