"""Teachers whose stitches and heads are solved for, and what of the labels they are said to use."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from test_own_teachers import teachers_of
from torch import Tensor
from toy import make_cohort

from pfedhr.algorithms import reassembling, solving
from pfedhr.algorithms.assignment import assign
from pfedhr.algorithms.lessons import Lesson
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.private import initial_weights, restore
from pfedhr.algorithms.solving import head_outputs
from pfedhr.algorithms.teacher import Teacher, teacher_network
from pfedhr.algorithms.tuning import Tuned
from pfedhr.data import Examples, Public, Unlabelled
from pfedhr.in_process import sequential
from pfedhr.inference import predict
from pfedhr.parcel import pack
from pfedhr.reassembly import Recipe, solved_joints
from pfedhr.seeding import generator

SOLVED = {"teachers": "reassembled", "stitch_start": "solved", "tuning_epochs": 0}


@pytest.mark.parametrize(
    ("form", "use"),
    [
        ({**SOLVED, "tuning_targets": "cohort"}, "inputs at the server"),
        ({**SOLVED, "stitch_start": "random"}, "inputs at the server"),
        ({**SOLVED, "stitch_start": "random", "tuning_targets": "labels", "match": "benefit"}, "labels at the server"),
        ({"teachers": "own", "tuning_epochs": 1}, "labels at the server"),
        ({"teachers": "own", "tuning_epochs": 1, "tuning_targets": "cohort"}, "inputs at the server"),
    ],
)
def test_labels_are_said_to_be_used_where_they_are(form: dict[str, Any], use: str) -> None:
    """Other labels give other teachers, or the same ones."""
    algorithm = PFedHR.paper(**{"groups": 3, "candidates": 8, "tuning_targets": "both", "probe": 8, **form})
    assert algorithm.public_use(labelled=True) == use
    cohort = make_cohort("cnn1", "mlp")
    public = cohort.federation.public
    assert isinstance(public, Examples)
    other = dataclasses.replace(public, labels=(public.labels + 1) % 4)
    changed = dataclasses.replace(cohort, federation=dataclasses.replace(cohort.federation, public=other))
    first, second = (
        pack({client: one.weights for client, one in teachers_of(algorithm, held).items()}) for held in (cohort, changed)
    )
    assert (first != second) is (use == "labels at the server")


@pytest.mark.parametrize("labelled", [True, False])
def test_labels_that_heads_are_solved_for_are_said_to_be_used(labelled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = PFedHR.paper(**SOLVED, groups=3, tuning_targets="both" if labelled else "cohort", probe=8)
    led_to = list[Tensor]()

    def watched(mean: Tensor, public: Public, labels: bool) -> Tensor:
        led_to.append(head_outputs(mean, public, labels) - head_outputs(mean, public, False))
        return led_to[-1]

    monkeypatch.setattr(solving, "head_outputs", watched)
    teachers_of(algorithm, make_cohort("cnn1", "mlp"))
    assert [bool(one.any()) for one in led_to] == [labelled]
    assert algorithm.public_use(labelled=True) == ("labels at the server" if labelled else "inputs at the server")


@pytest.mark.parametrize("labelled", [True, False])
def test_heads_are_solved_for_the_logarithms_of_what_is_known(labelled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    led_to = list[Tensor]()

    def watched(*arguments: Any) -> Any:
        led_to.append(arguments[-1])
        return solved_joints(*arguments)

    monkeypatch.setattr(solving, "solved_joints", watched)
    algorithm = PFedHR.paper(**SOLVED, groups=3, tuning_targets="both" if labelled else "cohort", probe=6)
    cohort = make_cohort("cnn1", "mlp", clients=2)
    teachers_of(algorithm, cohort)
    views = [cohort.client_view(client, 1) for client in cohort.networks]
    public = cohort.federation.public.ready(cohort.device)
    said = [predict(restore(view.network, initial_weights(view)), public.inputs).softmax(1).tolist() for view in views]
    [found] = led_to
    assert isinstance(public, Examples)
    places = torch.randperm(16, generator=generator(0, "probe"))[:6].tolist()
    for row, place in zip(found.tolist(), places, strict=True):
        known = [(one + other) / 2 for one, other in zip(said[0][place], said[1][place], strict=True)]
        if labelled:
            known = [(share + (at == public.labels[place])) / 2 for at, share in enumerate(known)]
        assert row == pytest.approx([math.log(share) for share in known], abs=1e-5)


def test_what_hardly_anyone_thinks_possible_is_solved_for_as_a_thousandth() -> None:
    certain = torch.tensor([[0.75, 0.25, 2e-4, 0.0]])
    expected = [math.log(0.75), math.log(0.25), math.log(1e-3), math.log(1e-3)]
    assert head_outputs(certain, Unlabelled(torch.zeros(1, 2)), True)[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("labelled", [True, False])
def test_solved_stitches_and_heads_are_nearer_to_what_donors_know_and_touch_no_block(labelled: bool) -> None:
    """Untuned candidates of trained networks: with torch's first weights they guess, with solved ones they know something."""
    cohort = make_cohort("cnn1", "cnn2", labelled=labelled, epochs=8)
    algorithm = PFedHR.paper(groups=3, candidates=8, tuning_epochs=0, probe=16)
    sent = {}
    for client in cohort.networks:
        view = cohort.client_view(client, 1)
        _, sent[client], _ = algorithm.client_step(algorithm.init_client(view), Lesson(None, ()), view)
    view = sequential(lambda map: cohort.server_view(1, map))
    tests = cohort.federation.clients["client00"].test.ready(view.device)

    def accuracies(form: PFedHR) -> tuple[dict[str, Teacher], list[float]]:
        server, _ = form.server_step(form.init_server(view), sent, view)
        made = {str(one.recipe): one for one in server.made.values()}
        right = [
            (predict(teacher_network(one), tests.inputs).argmax(1) == tests.labels).float().mean() for one in made.values()
        ]
        return made, [float(share) for share in right]

    random, before = accuracies(algorithm)
    solved, after = accuracies(dataclasses.replace(algorithm, stitch_start="solved"))
    assert sum(after) / len(after) > sum(before) / len(before) + 0.2
    shared = random.keys() & solved.keys()
    assert shared
    for recipe in shared:
        for name, value in solved[recipe].weights.items():
            if name.startswith("block"):
                assert torch.equal(value, random[recipe].weights[name])


@pytest.mark.parametrize(("probe", "solved_on"), [(64, 8), (64, 256), (12, 256), (12, 8)])
@pytest.mark.parametrize("average", [False, True])
def test_what_solved_candidates_say_is_known_without_running_them_again(
    probe: int, solved_on: int, average: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the public examples that they were solved on, of the probe, and of neither; the uploads themselves, too."""
    cohort = make_cohort("cnn1", "cnn2", "cnn1", "mlp")
    algorithm = PFedHR.paper(**SOLVED, groups=3, candidates=6, probe=probe, average_structures=average)
    for module in (solving, reassembling):
        monkeypatch.setattr(module, "SOLVED_ON", solved_on)
    seen: dict[Recipe, Tuned] = {}

    def watched(chains: Any, offered: Any, tuned: dict[Recipe, Tuned], score: Any) -> Any:
        seen.update(tuned)
        assert set(tuned) == {*chains.values(), *(recipe for some in offered.values() for recipe in some)}
        return assign(chains, offered, tuned, score)

    monkeypatch.setattr(reassembling, "assign", watched)
    assert teachers_of(algorithm, cohort)
    assert len(seen) > 4
    public = cohort.federation.public.ready(cohort.device)
    assert 12 < len(public) < 64
    for recipe, one in seen.items():
        assert one.teacher.recipe == recipe
        torch.testing.assert_close(one.logits, predict(teacher_network(one.teacher), public.inputs))
