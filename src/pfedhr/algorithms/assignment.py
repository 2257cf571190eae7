"""Who gets which tuned network as its teacher, and what the round's record says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pfedhr.algorithm import Metrics
from pfedhr.algorithms.teacher import JOINTS, Teacher, full_stitches, size
from pfedhr.algorithms.tuning import Tuned
from pfedhr.reassembly import Recipe, Score, agreement, match_logits


def assign(
    chains: Mapping[str, Recipe],
    offered: Mapping[str, Sequence[Recipe]],
    tuned: Mapping[Recipe, Tuned],
    score: Score = agreement,
) -> tuple[dict[str, Teacher], Metrics]:
    """Return the teacher of each client, that of the best score, and what the round's record says: eqs. (2) and (5) of pFedHR.

    `chains`: each client's own network. Unchanged it is never its teacher: it would be the best match, and teach nothing. Where
    its logits are not finite nothing is like it, and it has no teacher. `offered`: the candidates that each may have.
    """
    chains = {client: chain for client, chain in chains.items() if tuned[chain].logits.isfinite().all()}
    recipes = list(dict.fromkeys(recipe for client in sorted(offered) for recipe in offered[client]))
    if not recipes or not chains:
        return {}, {}
    barred = {
        (client, number)
        for client, chain in chains.items()
        for number, recipe in enumerate(recipes)
        if recipe == chain or recipe not in offered[client]
    }
    logits = {client: tuned[chain].logits for client, chain in chains.items()}
    matching = match_logits(logits, [tuned[recipe].logits for recipe in recipes], barred, score)
    teachers = {client: tuned[recipes[number]].teacher for client, number in matching.choice.items()}
    rows = zip(chains, matching.scores, strict=True)
    scores = {client: [round(float(value), 6) for value in row] for client, row in rows}
    return teachers, {**described(chains, teachers, tuned), "scores": scores}


def within_budget(
    chains: Mapping[str, Teacher], candidates: Mapping[Recipe, Teacher], budget: float
) -> dict[str, list[Recipe]]:
    """Return the candidates that each client may have: those of at most (1 + budget) times the values of its own network.

    Where all hold more, that is the smallest. Its own network may be among them, but does not count as one.
    """
    sizes = {recipe: size(one) for recipe, one in candidates.items()}
    offered: dict[str, list[Recipe]] = {}
    for client, chain in chains.items():
        smallest = min((sizes[recipe] for recipe in candidates if recipe != chain.recipe), default=0)
        most = max((1 + budget) * size(chain), smallest)
        offered[client] = [recipe for recipe in candidates if sizes[recipe] <= most]
    return offered


def sound_ones(offered: Mapping[str, Sequence[Recipe]], tuned: Mapping[Recipe, Tuned]) -> dict[str, list[Recipe]]:
    """Return the candidates offered to each client but those whose training or logits were not finite."""
    return {client: [recipe for recipe in recipes if tuned[recipe].sound] for client, recipes in offered.items()}


def described(chains: Mapping[str, Recipe], teachers: Mapping[str, Teacher], tuned: Mapping[Recipe, Tuned]) -> Metrics:
    """Return what the round's record says of each client's teacher, beside its own network's size."""
    sizes = {client: size(teacher) for client, teacher in teachers.items()}
    uploads = {client: size(tuned[chain].teacher) for client, chain in chains.items()}
    return {
        "teachers": {client: str(teacher.recipe) for client, teacher in teachers.items()},
        "teacher_sizes": sizes,
        "size_ratios": {client: round((held - uploads[client]) / uploads[client], 6) for client, held in sizes.items()},
        "stitch_sizes": {client: size(teacher, JOINTS) for client, teacher in teachers.items()},
        "full_stitches": {client: full_stitches(teacher) for client, teacher in teachers.items()},
    }
