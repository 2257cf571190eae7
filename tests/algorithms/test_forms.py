"""Every value of pFedHR in the paper's form and in its better one, written out."""

from __future__ import annotations

import math

from pfedhr.algorithms.pfedhr import PAPER, PFedHR

DIFFERENT_IN_THE_PAPER = {
    "distil_weight": 0.2,
    "decline_below": 0.0,
    "tuning_epochs": 3,
    "tuning_batch_size": 8,
    "teachers": "reassembled",
    "tuning_targets": "labels",
    "donors": "active",
    "start": "own",
}
BETTER = {
    "groups": 4,
    "candidates": 16,
    "distil_weight": 1.0,
    "temperature": 1.0,
    "teacher_max_age": 0,
    "decline_below": 0.5,
    "tuning_epochs": 10,
    "tuning_batch_size": 32,
    "tuning_learning_rate": 0.001,
    "contrastive_temperature": 0.5,
    "stitch": "light",
    "stitch_layers": 1,
    "most_blocks": 0,
    "probe": 512,
    "repeat_groups": False,
    "average_structures": False,
    "teachers": "structure",
    "tuning_targets": "both",
    "label_significance": 0.1,
    "donors": "all",
    "tuned_blocks": 0,
    "stitch_start": "random",
    "match": "likeness",
    "size_budget": math.inf,
    "tuned_candidates": "all",
    "start": "teacher",
}


def test_the_better_form_has_these_values_and_no_other_settings() -> None:
    assert vars(PFedHR()) == BETTER


def test_the_papers_form_has_these_values_wherever_it_is_asked_for() -> None:
    assert vars(PFedHR.paper()) == {**BETTER, **DIFFERENT_IN_THE_PAPER}
    assert PFedHR.presets == {"paper": PAPER}
    assert PAPER == {**DIFFERENT_IN_THE_PAPER, "tuned_blocks": 0, "stitch_start": "random"}  # whatever the better form has
