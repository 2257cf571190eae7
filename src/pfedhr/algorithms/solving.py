"""Reassembled networks whose stitches and heads are solved for, and not trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pfedhr.algorithm import ServerView
from pfedhr.algorithms.teacher import JOINTS, Teacher, with_joints
from pfedhr.algorithms.tuning import Tuned
from pfedhr.data import Examples, Public
from pfedhr.parcel import Tensors
from pfedhr.reassembly import BlockBank, BlockRef, Joint, Profile, Recipe, layout, predict_chains, solved_joints
from pfedhr.seeding import seeded

Key = TypeVar("Key")

SOLVED_ON = 256
"""How many public examples stitches are solved on at most."""
LEAST = 1e-3
"""The least probability that a head is solved for, whose logarithm must not outweigh all others."""


def known_of(mean: Tensor, public: Public, labels: bool) -> Tensor:
    """Return the probabilities (n, classes) that are known of public examples.

    That is `mean` (n, classes), what the cohort says, half and half with the labels if there are some and `labels` says so.
    """
    if labels and isinstance(public, Examples):
        return (mean + functional.one_hot(public.labels, mean.shape[1])) / 2
    return mean


def head_outputs(mean: Tensor, public: Public, labels: bool) -> Tensor:
    """Return what heads shall give for public examples: the logarithm (n, classes) of what is known of them."""
    return known_of(mean, public, labels).clamp(min=LEAST).log()


def logits_of_donors(bank: BlockBank, profile: Profile, probe: Tensor, view: ServerView) -> Tensors:
    """Return the logits (n, classes) of the networks of a bank on the public data.

    Those at the places `probe` have come with the profile.
    """
    parts = {owner: layout(Recipe(bank.chain(owner)), bank).values() for owner in bank.owners}
    chains = {
        owner: [part.build() if isinstance(part, Joint) else bank[part].module for part in own] for owner, own in parts.items()
    }
    return _completed(profile.logits, chains, probe, view)


def solve_drafts(
    drafts: Mapping[Recipe, Teacher],
    parts: Mapping[Recipe, Mapping[str, BlockRef | Joint]],
    bank: BlockBank,
    profile: Profile,
    probe: Tensor,
    mean: Tensor,
    labels: bool,
    view: ServerView,
) -> dict[Recipe, Tuned]:
    """Return the drafts, each of its `parts`, with stitches and heads that lead to what is known, and their logits.

    `probe`: the places of the public examples that the profile is of; `mean` and `labels`: see `head_outputs`.
    """
    places = probe[:SOLVED_ON]
    public = view.public.take(places).ready(view.device)
    outputs = head_outputs(mean[places].to(view.device), public, labels)
    with seeded(view.seed, view.round, "solved stitches"):  # for what is too wide to be solved
        solved = solved_joints(parts, bank, profile.intakes, public.inputs, outputs)
    chains = {recipe: list(one.modules.values()) for recipe, one in solved.items()}
    logits = _completed({recipe: one.logits for recipe, one in solved.items()}, chains, places, view)
    teachers = {recipe: with_joints(drafts[recipe], parts[recipe], one.modules) for recipe, one in solved.items()}
    return {recipe: Tuned(teacher, logits[recipe], _sound(teacher, logits[recipe])) for recipe, teacher in teachers.items()}


def _sound(teacher: Teacher, logits: Tensor) -> bool:
    """Return whether solving came to a finite head and finite stitches: what a donor gave may not have been."""
    joints = [value for name, value in teacher.weights.items() if name.startswith(JOINTS)]
    return all(bool(value.isfinite().all()) for value in (*joints, logits))


def _completed(
    there: Mapping[Key, Tensor], chains: Mapping[Key, Sequence[nn.Module]], places: Tensor, view: ServerView
) -> dict[Key, Tensor]:
    """Return logits (n, classes) on the public data, on the CPU: those `there` at `places`, elsewhere what the chains say."""
    other = torch.ones(len(view.public), dtype=torch.bool)
    other[places] = False
    left = other.nonzero().flatten()
    rest = predict_chains(chains, view.public.take(left).ready(view.device).inputs) if len(left) else {}
    found: dict[Key, Tensor] = {}
    for key, known in there.items():
        found[key] = known.new_empty((len(other), *known.shape[1:]), device="cpu")
        found[key][places] = known.cpu()
        if rest:
            found[key][left] = rest[key].cpu()
    return found
