"""A reassembled network that travels: how to make it again, and its weights; its tuning on public data; who gets it."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from pfedhr.algorithm import Metrics, ServerView
from pfedhr.algorithms.private import weights_of
from pfedhr.algorithms.public_training import towards, train_publicly
from pfedhr.algorithms.uploads import Source
from pfedhr.data import Examples, Public
from pfedhr.inference import predict
from pfedhr.learning import Augmentation, Loss, Training, nt_xent
from pfedhr.parcel import ParcelError, Tensors
from pfedhr.reassembly import (
    BlockBank,
    BlockPlan,
    BlockRef,
    Blueprint,
    Description,
    Joint,
    Recipe,
    StitchKind,
    describe,
    layout,
    match_logits,
    rebuild,
)
from pfedhr.seeding import generator, seeded


@dataclass(frozen=True)
class Teacher:
    """A reassembled network: all that it takes to run it where nobody knows the networks that it is made of, and no more.

    `recipe` says where its blocks come from; `parts` are the blueprints of blocks, stitches and head in order, by their names
    in `layout`; `weights` are theirs, "block1.layer0.weight" and so on. `round`: when it was made, counted from 1.
    """

    recipe: Recipe
    parts: dict[str, Blueprint]
    round: int
    weights: Tensors


def draft(
    recipe: Recipe, bank: BlockBank, sources: Mapping[str, Source], stitch: StitchKind, round: int, layers: int = 1
) -> Teacher:
    """Return the untuned network of `recipe`; the initial weights of its stitches and head come from torch's generator."""
    parts: dict[str, Blueprint] = {}
    weights: Tensors = {}
    for name, part in layout(recipe, bank, stitch, layers).items():
        if isinstance(part, Joint):
            description = _describe_joint(part)
            held = description.weights(part.build())
        else:
            plan = sources[part.owner].plans[part.index - 1]
            description, held = plan.description, plan.weights(sources[part.owner].weights)
        parts[name] = description.blueprint
        weights |= {f"{name}.{own}": value for own, value in held.items()}
    return Teacher(recipe, parts, round, weights)


def with_joints(teacher: Teacher, parts: Mapping[str, BlockRef | Joint], joints: Mapping[str, nn.Module]) -> Teacher:
    """Return the teacher with the weights of these stitches and heads, by their names in `parts`, its `layout`."""
    weights = dict(teacher.weights)
    for name, module in joints.items():
        if isinstance(part := parts[name], Joint):
            weights |= {f"{name}.{own}": value.cpu() for own, value in _describe_joint(part).weights(module).items()}
    return replace(teacher, weights=weights)


@functools.cache
def _describe_joint(joint: Joint) -> Description:
    with seeded(0, "joint"):  # its weights do not matter, and leave the generator alone
        return describe(joint.build(), torch.zeros(1, *joint.source))


def teacher_network(teacher: Teacher) -> nn.Sequential:
    """Return the network of `teacher`, in train mode. Raises ParcelError for parts or weights that make none."""
    if not all(map(str.isidentifier, teacher.parts)):
        raise ParcelError("the parts of the teacher bear names that are none")
    held: dict[str, Tensors] = {name: {} for name in teacher.parts}
    for name, value in teacher.weights.items():
        part, _, own = name.partition(".")
        if part not in held:
            raise ParcelError(f"the teacher has the weight {name[:60]}, but no such part")
        held[part][own] = value
    return nn.Sequential(OrderedDict((name, rebuild(teacher.parts[name], weights)) for name, weights in held.items())).train()


def size(teacher: Teacher, parts: str | tuple[str, ...] = "") -> int:
    """Return how many values a teacher holds, or those parts of it whose names start so."""
    return sum(value.numel() for name, value in teacher.weights.items() if name.startswith(parts))


def full_stitches(teacher: Teacher) -> int:
    """Return how many stitches of a teacher are dense: where that would be too large, a light one took its place."""
    return len({part for part in (name.split(".")[0] for name in teacher.weights) if part.endswith("_full")})


def weights_in(teacher: Teacher, client: str, plans: Sequence[BlockPlan]) -> Tensors | None:
    """Return the weights of the client's own network, by its blueprint's names, if the teacher is that network, tuned.

    `plans` are its blocks.
    """
    if teacher.recipe.blocks != tuple(BlockRef(client, index) for index in range(1, len(plans) + 1)):
        return None
    return {
        theirs: teacher.weights[f"block{place}.{own}"]
        for place, plan in enumerate(plans, start=1)
        for own, theirs in plan.description.names.items()
    }


@dataclass(frozen=True)
class TuningJob:
    """A network to tune on the public data, how, and the temperature of the contrastive loss where labels are withheld.

    `frozen`: its blocks stay as they are, and only stitches and head learn. `targets`: `soft_targets` (n, classes) on the
    public data that it learns besides the labels, if `labels`, or instead of any other aim.
    """

    teacher: Teacher
    training: Training
    temperature: float
    frozen: bool = False
    targets: Tensor | None = None
    labels: bool = True


@dataclass(frozen=True)
class Tuned:
    """A tuned network, and its logits (n, classes) on the public data in eval mode."""

    teacher: Teacher
    logits: Tensor


class FrozenBlocks(nn.Sequential):
    """A reassembled network whose blocks neither learn nor change: they stay in eval mode whatever the network's is."""

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__(OrderedDict(network.named_children()))
        for block in self._blocks():
            block.requires_grad_(False)
            for module in block.modules():
                if isinstance(module, nn.RNNBase):
                    module.dropout = 0.0  # between its layers, in the train mode that its gradients ask for

    def _blocks(self) -> list[nn.Module]:
        return [part for name, part in self.named_children() if name.startswith("block")]

    def train(self, mode: bool = True) -> FrozenBlocks:
        """Set the mode of stitches and head."""
        super().train(mode)
        for module in (module for block in self._blocks() for module in block.modules()):
            # cuDNN leads gradients through a recurrent layer in train mode only.
            module.training = mode and isinstance(module, nn.RNNBase)
        return self


def tune(job: TuningJob, view: ServerView) -> Tuned:
    """Train the network on the public data: by cross entropy, by NT-Xent of two views without labels, or to what the job says.

    One without anything to learn stays as it is. Raises TrainingError naming recipe and round.
    """
    public = view.public.ready(view.device)
    network = teacher_network(job.teacher).to(view.device)
    model = FrozenBlocks(network) if job.frozen else network
    path = (str(job.teacher.recipe), "tuning")
    loss = _loss(job, public, view, generator(view.seed, view.round, *path, "views"))
    if any(value.requires_grad for value in model.parameters()):
        train_publicly(model, loss, job.training, view, f"tuning {job.teacher.recipe}", *path)
    logits = predict(model, public.inputs).cpu()
    tuned = weights_of(model)  # and the names of tied weights, which a blueprint gives once
    return Tuned(replace(job.teacher, weights={name: tuned[name] for name in job.teacher.weights}), logits)


def _loss(job: TuningJob, public: Public, view: ServerView, rng: torch.Generator) -> Loss:
    if job.targets is None:
        labelled = isinstance(public, Examples)
        return _labelled(public) if labelled else _contrastive(public.inputs, view.mirror, job.temperature, rng)
    taught = towards(job.targets.to(view.device), public.inputs)
    if not job.labels or not isinstance(public, Examples):
        return taught
    known = _labelled(public)
    return lambda model, batch: known(model, batch) + taught(model, batch)


def _labelled(public: Examples) -> Loss:
    return lambda model, batch: functional.cross_entropy(model(public.inputs[batch]), public.labels[batch])


def _contrastive(inputs: Tensor, mirror: bool, temperature: float, rng: torch.Generator) -> Loss:
    augment = Augmentation(mirror)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        images = inputs[batch]
        return nt_xent(model(augment(images, rng)), model(augment(images, rng)), temperature)

    return loss


def assign(
    chains: Mapping[str, Recipe], offered: Mapping[str, Sequence[Recipe]], tuned: Mapping[Recipe, Tuned]
) -> tuple[dict[str, Teacher], Metrics]:
    """Return the teacher of each client, and what the round's record says of them: eqs. (2) and (5) of pFedHR.

    `chains`: each client's own network. Unchanged it is never its teacher: it would be the best match, and teach nothing.
    `offered`: the candidates that each may have, at least one among them all.
    """
    recipes = list(dict.fromkeys(recipe for client in sorted(offered) for recipe in offered[client]))
    barred = {
        (client, number)
        for client, chain in chains.items()
        for number, recipe in enumerate(recipes)
        if recipe == chain or recipe not in offered[client]
    }
    logits = {client: tuned[chain].logits for client, chain in chains.items()}
    matching = match_logits(logits, [tuned[recipe].logits for recipe in recipes], barred)
    teachers = {client: tuned[recipes[number]].teacher for client, number in matching.choice.items()}
    similarity = [[round(float(value), 6) for value in row] for row in matching.similarity]
    return teachers, {**described(chains, teachers, tuned), "similarity": similarity}


def described(chains: Mapping[str, Recipe], teachers: Mapping[str, Teacher], tuned: Mapping[Recipe, Tuned]) -> Metrics:
    """Return what the round's record says of each client's teacher, beside its own network's size."""
    sizes = {client: size(teacher) for client, teacher in teachers.items()}
    uploads = {client: size(tuned[chain].teacher) for client, chain in chains.items()}
    return {
        "teachers": {client: str(teacher.recipe) for client, teacher in teachers.items()},
        "teacher_sizes": sizes,
        "size_ratios": {client: round((held - uploads[client]) / uploads[client], 6) for client, held in sizes.items()},
        "stitch_sizes": {client: size(teacher, ("stitch", "head")) for client, teacher in teachers.items()},
        "full_stitches": {client: full_stitches(teacher) for client, teacher in teachers.items()},
    }
