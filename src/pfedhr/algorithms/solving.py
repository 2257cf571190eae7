"""Reassembled networks whose stitches and heads are solved for, and not trained."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from pfedhr.algorithm import ServerView
from pfedhr.algorithms.teacher import Teacher, with_joints
from pfedhr.data import Examples
from pfedhr.reassembly import BlockBank, BlockRef, Joint, Recipe, intakes, solved_joints
from pfedhr.seeding import seeded

LEAST = 1e-3
"""The least probability that a head is solved for, whose logarithm must not outweigh all others."""


def solve_drafts(
    drafts: Mapping[Recipe, Teacher],
    parts: Mapping[Recipe, Mapping[str, BlockRef | Joint]],
    bank: BlockBank,
    places: Tensor,
    mean: Tensor,
    labels: bool,
    view: ServerView,
) -> dict[Recipe, Teacher]:
    """Return the drafts, each of its `parts`, with stitches that are solved, and heads that lead to what is known.

    They are solved on the public examples at `places` (k,) int64. What is known is `mean` (n, classes), a softmax on all public
    examples, half and half with their labels, if there are some and `labels` says so.
    """
    public = view.public.take(places).ready(view.device)
    wanted = mean[places].to(view.device)
    if labels and isinstance(public, Examples):
        wanted = (wanted + functional.one_hot(public.labels, view.classes)) / 2
    intake, outputs = intakes(bank, public.inputs), wanted.clamp(min=LEAST).log()
    solved: dict[Recipe, Teacher] = {}
    for recipe, one in drafts.items():
        with seeded(view.seed, view.round, str(recipe), "stitches"):  # for what is too wide to be solved
            joints = solved_joints(parts[recipe], bank, intake, public.inputs, outputs)
        solved[recipe] = with_joints(one, parts[recipe], joints)
    return solved
