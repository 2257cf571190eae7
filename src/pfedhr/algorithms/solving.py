"""Reassembled networks whose stitches and heads are solved for, and not trained."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from pfedhr.algorithm import ServerView
from pfedhr.algorithms.teacher import Teacher, with_joints
from pfedhr.data import Examples, Public
from pfedhr.reassembly import BlockBank, BlockRef, Joint, Recipe, intakes, solved_joints
from pfedhr.seeding import seeded

SOLVED_ON = 256
"""How many public examples stitches are solved on at most."""
LEAST = 1e-3
"""The least probability that a head is solved for, whose logarithm must not outweigh all others."""


def head_outputs(mean: Tensor, public: Public, labels: bool) -> Tensor:
    """Return what heads shall give for public examples: the logarithm (n, classes) of what is known of them.

    That is `mean` (n, classes), what the cohort says in probabilities, half and half with the labels if there are some and
    `labels` says so.
    """
    known = mean
    if labels and isinstance(public, Examples):
        known = (mean + functional.one_hot(public.labels, mean.shape[1])) / 2
    return known.clamp(min=LEAST).log()


def solve_drafts(
    drafts: Mapping[Recipe, Teacher],
    parts: Mapping[Recipe, Mapping[str, BlockRef | Joint]],
    bank: BlockBank,
    inputs: Tensor,
    outputs: Tensor,
    view: ServerView,
) -> dict[Recipe, Teacher]:
    """Return the drafts, each of its `parts`, with stitches and heads that are solved on `inputs` and lead to `outputs`."""
    intake = intakes(bank, inputs)
    solved: dict[Recipe, Teacher] = {}
    for recipe, one in drafts.items():
        with seeded(view.seed, view.round, str(recipe), "stitches"):  # for what is too wide to be solved
            joints = solved_joints(parts[recipe], bank, intake, inputs, outputs)
        solved[recipe] = with_joints(one, parts[recipe], joints)
    return solved
