"""The tuning of networks on public data by the server, and what they say there."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from pfedhr.algorithm import ServerView
from pfedhr.algorithms.private import weights_of
from pfedhr.algorithms.public_training import finite, towards, train_publicly
from pfedhr.algorithms.teacher import Teacher, teacher_network
from pfedhr.data import Examples, Public
from pfedhr.inference import predict
from pfedhr.learning import Augmentation, Loss, Training, distil, nt_xent, soft_targets, steady
from pfedhr.parcel import Tensors
from pfedhr.seeding import generator


@dataclass(frozen=True)
class TuningJob:
    """A network to tune on the public data, how, and the temperature of the contrastive loss where labels are withheld.

    `frozen`: its blocks stay as they are, and only stitches and head learn. `targets`: `soft_targets` (n, classes) on the
    public data that it learns besides the labels, if `labels`, or instead of any other aim. `last`: how many of its last
    blocks learn, 0 = all. What comes before them stays as it is and is computed once, so that augmented views, which NT-Xent
    takes, cannot be had.
    """

    teacher: Teacher
    training: Training
    temperature: float
    frozen: bool = False
    targets: Tensor | None = None
    labels: bool = True
    last: int = 0


@dataclass(frozen=True)
class Tuned:
    """A tuned network, and its logits (n, classes) on the public data in eval mode.

    `sound`: whether both its training and its logits were finite; else the network is as it was, and none to teach by.
    """

    teacher: Teacher
    logits: Tensor
    sound: bool = True


@dataclass(frozen=True)
class Heard:
    """What the uploads say on the public data.

    `said` (n, classes): each in probabilities; `mean` (n, classes): the cohort, if anybody said anything finite; `labels`:
    whether the labels may teach, as far as the setting takes any.
    """

    said: Tensors
    mean: Tensor | None
    labels: bool


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

    One without anything to learn stays as it is, and so does one whose training is not finite.
    """
    public = view.public.ready(view.device)
    network = teacher_network(job.teacher).to(view.device)
    model = FrozenBlocks(network) if job.frozen else network
    blocks = [place for place, name in enumerate(job.teacher.parts) if name.startswith("block")]
    if 0 < job.last < len(blocks):
        body = blocks[-job.last - 1] + 1  # what leads from there to the next block is tuned with that
        public = replace(public, inputs=predict(network[:body], public.inputs))
        model = network[body:]
    path = (str(job.teacher.recipe), "tuning")
    loss = _loss(job, public, view, generator(view.seed, view.round, *path, "views"))
    sound = True
    if any(value.requires_grad for value in model.parameters()):
        sound = train_publicly(model, loss, job.training, view, f"tuning {job.teacher.recipe}", *path) is not None
    logits = predict(model, public.inputs).cpu()
    sound = sound and bool(logits.isfinite().all())
    tuned = weights_of(network)  # and the names of tied weights, which a blueprint gives once
    return Tuned(replace(job.teacher, weights={name: tuned[name] for name in job.teacher.weights}), logits, sound)


def _loss(job: TuningJob, public: Public, view: ServerView, rng: torch.Generator) -> Loss:
    if job.targets is None:
        labelled = isinstance(public, Examples)
        return _labelled(public) if labelled else _contrastive(public.inputs, view.mirror, job.temperature, rng)
    targets = job.targets.to(view.device)
    if not job.labels or not isinstance(public, Examples):
        return towards(targets, public.inputs)
    return _labelled_and_towards(public, targets)


def _labelled_and_towards(public: Examples, targets: Tensor) -> Loss:
    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        logits = model(public.inputs[batch])  # once for both aims: it is what a step costs
        return functional.cross_entropy(logits, public.labels[batch]) + distil(logits, targets[batch])

    return steady(loss)


def _labelled(public: Examples) -> Loss:
    return steady(lambda model, batch: functional.cross_entropy(model(public.inputs[batch]), public.labels[batch]))


def _contrastive(inputs: Tensor, mirror: bool, temperature: float, rng: torch.Generator) -> Loss:
    augment = Augmentation(mirror)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        images = inputs[batch]
        return nt_xent(model(augment(images, rng)), model(augment(images, rng)), temperature)

    return loss


def logits_on_public(network: Teacher, view: ServerView) -> Tensor:
    """Return the logits (n, classes) of a network on the public data, on the CPU."""
    return predict(teacher_network(network).to(view.device), view.public.ready(view.device).inputs).cpu()


def softmaxes(logits: Tensors) -> Tensors:
    """Return what networks say in probabilities, given their logits (n, classes); nothing of those whose are not finite."""
    return {client: soft_targets(one).exp() for client, one in logits.items() if finite(one, client)}


def mean_prediction(said: Tensors) -> Tensor | None:
    """Return the mean (n, classes) of what networks say, nowhere 0, whose logarithm teaches nothing; None where none do."""
    if not said:
        return None
    return torch.stack([said[client] for client in sorted(said)]).mean(0).clamp(min=torch.finfo(torch.float32).tiny)
