"""A reassembled network that travels: how to make it again, and its weights; its tuning on public data; who gets it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from pfedhr.algorithm import Metrics, ServerView
from pfedhr.algorithms.private import weights_of
from pfedhr.data import Examples
from pfedhr.inference import predict
from pfedhr.learning import Augmentation, Loss, Training, TrainingError, fit, nt_xent
from pfedhr.models import ModelSpec, build
from pfedhr.parcel import Tensors
from pfedhr.reassembly import Block, BlockBank, Recipe, StitchKind, assemble, decompose, match_logits
from pfedhr.seeding import generator, seeded


@dataclass(frozen=True)
class Teacher:
    """A reassembled network: its recipe, the networks that its blocks come from, by owner, and all its weights.

    `round`: when it was made, counted from 1.
    """

    recipe: Recipe
    networks: dict[str, ModelSpec]
    stitch: StitchKind
    round: int
    weights: Tensors


def rebuild(teacher: Teacher) -> nn.Sequential:
    """Return the network of `teacher`, in train mode. Raises RuntimeError if the weights are another network's."""
    model = _skeleton(teacher)
    model.load_state_dict(teacher.weights)
    return model.train()


def _skeleton(teacher: Teacher) -> nn.Sequential:
    bank = BlockBank({owner: _blocks(network) for owner, network in teacher.networks.items()})
    shape = next(iter(teacher.networks.values())).shape
    return assemble(teacher.recipe, bank, shape, teacher.stitch)


@functools.cache
def _blocks(network: ModelSpec) -> tuple[Block, ...]:
    """Return the blocks of a network with weights of no meaning: `assemble` copies them, so one cut serves all."""
    return decompose(build(network, 0), torch.zeros(1, *network.shape))


def size(teacher: Teacher, parts: str | tuple[str, ...] = "") -> int:
    """Return how many values a teacher holds, or those parts of it whose names start so."""
    return sum(value.numel() for name, value in teacher.weights.items() if name.startswith(parts))


def full_stitches(teacher: Teacher) -> int:
    """Return how many stitches of a teacher are dense: where that would be too large, a light one took its place."""
    return len({part for part in (name.split(".")[0] for name in teacher.weights) if part.endswith("_full")})


@dataclass(frozen=True)
class TuningJob:
    """A network to tune on the public data, how, and the temperature of the contrastive loss where labels are withheld."""

    teacher: Teacher
    training: Training
    temperature: float


@dataclass(frozen=True)
class Tuned:
    """A tuned network, and its logits (n, classes) on the public data in eval mode."""

    teacher: Teacher
    logits: Tensor


def tune(job: TuningJob, view: ServerView) -> Tuned:
    """Train every weight of the network on the public data: by cross entropy, or by NT-Xent of two views without labels.

    Raises TrainingError naming recipe and round.
    """
    public = view.public.ready(view.device)
    model = rebuild(job.teacher).to(view.device)
    path = (view.round, str(job.teacher.recipe), "tuning")
    rng = generator(view.seed, *path, "batches")
    loss = (
        _labelled(public)
        if isinstance(public, Examples)
        else _contrastive(public.inputs, view.mirror, job.temperature, generator(view.seed, *path, "views"))
    )
    try:
        with seeded(view.seed, *path, "dropout"):
            fit(model, len(public), loss, job.training, rng)
    except TrainingError as error:
        raise TrainingError(f"tuning {job.teacher.recipe} in round {view.round}: {error}") from error
    logits = predict(model, public.inputs).cpu()
    return Tuned(replace(job.teacher, weights=weights_of(model)), logits)


def _labelled(public: Examples) -> Loss:
    return lambda model, batch: functional.cross_entropy(model(public.inputs[batch]), public.labels[batch])


def _contrastive(inputs: Tensor, mirror: bool, temperature: float, rng: torch.Generator) -> Loss:
    augment = Augmentation(mirror)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        images = inputs[batch]
        return nt_xent(model(augment(images, rng)), model(augment(images, rng)), temperature)

    return loss


def assign(
    chains: Mapping[str, Recipe], recipes: Sequence[Recipe], tuned: Mapping[Recipe, Tuned]
) -> tuple[dict[str, Teacher], Metrics]:
    """Return the teacher of each client, and what the round's record says of them: eqs. (2) and (5).

    `chains`: each client's own network. Unchanged it is never its teacher: it would be the best match, and teach nothing.
    """
    own = {(client, number) for client, chain in chains.items() for number, recipe in enumerate(recipes) if recipe == chain}
    logits = {client: tuned[chain].logits for client, chain in chains.items()}
    matching = match_logits(logits, [tuned[recipe].logits for recipe in recipes], own)
    teachers = {client: tuned[recipes[number]].teacher for client, number in matching.choice.items()}
    return teachers, {
        "teachers": {client: str(teacher.recipe) for client, teacher in teachers.items()},
        "teacher_sizes": {client: size(teacher) for client, teacher in teachers.items()},
        "stitch_sizes": {client: size(teacher, ("stitch", "head")) for client, teacher in teachers.items()},
        "full_stitches": {client: full_stitches(teacher) for client, teacher in teachers.items()},
        "similarity": [[round(float(value), 6) for value in row] for row in matching.similarity],
    }
