"""Teachers that a client declines, because they know too little of its classes."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from test_own_teachers import OWN, teachers_of
from torch import Tensor
from toy import equal, make_cohort

from pfedhr.algorithms import teaching
from pfedhr.algorithms.lessons import Lesson, Taught
from pfedhr.algorithms.private import initial_weights, restore
from pfedhr.algorithms.teacher import Teacher, teacher_network
from pfedhr.algorithms.teaching import _known, beyond_chance
from pfedhr.inference import predict
from pfedhr.learning import Privacy
from pfedhr.parcel import Tensors


def test_what_is_known_beyond_chance_is_counted_among_the_labels_that_there_are() -> None:
    labels = torch.tensor([1, 1, 1, 3])
    says_another = torch.tensor([[9.0, 0.0, 0.0, 0.0, 9.0]]).expand(4, 5).clone()
    assert beyond_chance(says_another, labels) == 0.0  # of 1 and 3 it says 1 always
    says_another[:, 3] = 1.0
    assert beyond_chance(says_another, labels) == 0.0  # and now 3, though 1 is right more often
    says_another[:3, 3] = 0.0
    assert beyond_chance(says_another, labels) == 0.5  # both are told apart
    says_another[2, 3] = 1.0
    assert beyond_chance(says_another, labels) == pytest.approx((2 / 3 + 1) / 2 - 1 / 2)


@pytest.mark.parametrize(
    ("theirs", "own", "declined"),
    [
        (0.24, 0.5, True),
        (0.26, 0.5, False),
        (-0.01, 0.0, True),
        (0.0, 0.0, False),
        (-0.05, -0.1, False),  # half of less than chance is more than that
        (-0.1, -0.1, False),
        (-0.11, -0.1, True),
    ],
)
def test_who_knows_less_than_chance_declines_what_knows_less_still(
    theirs: float, own: float, declined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = make_cohort("mlp")
    view = cohort.client_view("client00", 2)
    careful = dataclasses.replace(OWN, start="teacher", decline_below=0.5)
    knowledge = itertools.chain([own, theirs], itertools.repeat(1.0))  # and much once it has trained
    monkeypatch.setattr(teaching, "beyond_chance", lambda logits, labels: next(knowledge))
    lesson = Lesson(teachers_of(OWN, cohort)["client00"], ())
    _, _, metrics = careful.client_step(careful.init_client(view), lesson, view)
    assert metrics.get("declined", 0) == declined


def test_a_client_declines_a_teacher_that_knows_too_little_of_its_classes() -> None:
    cohort = make_cohort("mlp", epochs=8)
    view = cohort.client_view("client00", 1)
    two = view.train.take((view.train.labels < 2).nonzero().flatten())
    view = dataclasses.replace(view, train=two)
    own, *_ = OWN.client_step(OWN.init_client(view), Lesson(None, ()), view)
    useful = next(iter(teachers_of(dataclasses.replace(OWN, tuning_epochs=8), cohort).values()))
    flat = dataclasses.replace(useful, weights={name: torch.zeros_like(value) for name, value in useful.weights.items()})
    last = [name for name, value in useful.weights.items() if value.shape == (4,)][-1]
    elsewhere = dataclasses.replace(
        useful, weights={**useful.weights, last: useful.weights[last] + torch.tensor([0.0, 0.0, 100.0, 0.0])}
    )
    examples = two.ready(view.device)

    def said(teacher: Teacher) -> Tensor:
        return predict(teacher_network(teacher), examples.inputs)

    assert beyond_chance(said(flat), two.labels) == 0.0
    assert (said(elsewhere).argmax(1) == 2).all()
    assert beyond_chance(said(elsewhere), two.labels) == 0.5  # it tells the two apart all the same
    careful, second = dataclasses.replace(OWN, start="teacher", decline_below=0.5), dataclasses.replace(view, round=2)
    alone, _, _ = careful.client_step(own, Lesson(None, ()), second)
    after, _, metrics = careful.client_step(own, Lesson(flat, ()), second)
    assert metrics["declined"] == 1
    assert equal(after.weights, alone.weights)
    assert after.teacher is None
    for form, teacher in (
        (dataclasses.replace(careful, decline_below=0.0), flat),
        (careful, elsewhere),
        (careful, useful),
    ):
        taken, _, metrics = form.client_step(own, Lesson(teacher, ()), second)
        assert "declined" not in metrics
        assert taken.teacher is teacher
    # What the comparison tells of the private examples, no noise covers.
    private = dataclasses.replace(second, privacy=Privacy(noise=1.0, clip=1.0, delta=1e-3, secret=None))
    taken, _, metrics = careful.client_step(own, Lesson(flat, ()), private)
    assert "declined" not in metrics
    assert taken.teacher is flat


def zeroed(weights: Tensors, names: tuple[str, ...] | None = None) -> Tensors:
    return {name: torch.zeros_like(value) if names is None or name in names else value for name, value in weights.items()}


def test_who_learns_nothing_beside_a_teacher_trains_again_without() -> None:
    """Of zeros alone a perceptron never learns more than which class is frequent; one whose last layer is zero learns well."""
    cohort = make_cohort("mlp", epochs=8)
    view = cohort.client_view("client00", 2)
    careful = dataclasses.replace(OWN, start="teacher", decline_below=0.5)
    teacher = teachers_of(OWN, cohort)["client00"]
    dead = dataclasses.replace(teacher, weights=zeroed(teacher.weights))
    initial = initial_weights(view)
    last = tuple(name for name, value in initial.items() if value.shape[0] == 4)
    knows_nothing = Taught(zeroed(initial, last), None)
    alone, *_ = careful.client_step(knows_nothing, Lesson(None, ()), view)
    assert _known(restore(view.network, alone.weights), view) > 0.5
    careless, *_ = dataclasses.replace(careful, decline_below=0.0).client_step(knows_nothing, Lesson(dead, ()), view)
    assert _known(restore(view.network, careless.weights), view) <= 0

    after, _, metrics = careful.client_step(knows_nothing, Lesson(dead, ()), view)
    assert equal(after.weights, alone.weights)
    assert after.teacher is None
    assert metrics["declined"] == 1
    # Where training alone leads no further, what was learnt beside the teacher stays.
    hopeless = Taught(zeroed(initial), None)
    stays, _, metrics = careful.client_step(hopeless, Lesson(dead, ()), view)
    assert stays.teacher is dead
    assert "declined" not in metrics
    private = dataclasses.replace(view, privacy=Privacy(noise=1.0, clip=1.0, delta=1e-3, secret=None))
    taken, _, metrics = careful.client_step(knows_nothing, Lesson(dead, ()), private)
    assert taken.teacher is dead
    assert "declined" not in metrics


def test_who_loses_half_of_what_it_knew_beside_a_teacher_trains_again_without(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = make_cohort("mlp")
    view = cohort.client_view("client00", 2)
    careful = dataclasses.replace(OWN, start="teacher", decline_below=0.5)
    lesson = Lesson(teachers_of(OWN, cohort)["client00"], ())
    state = careful.init_client(view)
    alone, *_ = careful.client_step(state, Lesson(None, ()), view)
    beside, *_ = dataclasses.replace(careful, decline_below=0.0).client_step(state, lesson, view)
    for known, expected in (
        # Oneself and the teacher before; oneself after, and alone: much is half of the 3/4 that chance leaves.
        ([0.5, 0.3, 0.25, 0.38], alone),
        ([0.5, 0.3, 0.25, 0.37], beside),
        ([0.5, 0.3, 0.26], beside),
        ([0.9, 0.5, 0.4, 0.41], alone),
        ([0.9, 0.5, 0.4, 0.39], beside),
    ):
        left = iter(known)
        monkeypatch.setattr(teaching, "beyond_chance", lambda logits, labels, left=left: next(left))
        after, _, metrics = careful.client_step(state, lesson, view)
        assert next(left, None) is None
        assert equal(after.weights, expected.weights)
        assert metrics.get("declined", 0) == (expected is alone)


@pytest.mark.parametrize("decline_below", [0.5, 0.75, 1.0])
def test_the_stricter_a_client_is_the_less_it_keeps_of_what_it_learnt_beside_a_teacher(
    decline_below: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 1, too, it keeps what it learnt alone, of which there cannot be more than the 3/4 that chance leaves."""
    cohort = make_cohort("mlp")
    view = cohort.client_view("client00", 2)
    strict = dataclasses.replace(OWN, start="teacher", decline_below=decline_below)
    state = strict.init_client(view)
    left = iter([0.3, 0.3, 0.0, 0.75])
    monkeypatch.setattr(teaching, "beyond_chance", lambda logits, labels: next(left))
    _, _, metrics = strict.client_step(state, Lesson(teachers_of(OWN, cohort)["client00"], ()), view)
    assert next(left, None) is None
    assert metrics["declined"] == 1
