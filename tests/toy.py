"""A small federation that can be learnt in seconds."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pfedhr.data import ClientData, Examples, Federation
from pfedhr.in_process import Cohort
from pfedhr.learning import Privacy, Training
from pfedhr.models import ModelSpec
from pfedhr.parcel import Tensors
from pfedhr.reassembly import Block, BlockBank, BlockRef
from pfedhr.seeding import generator

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def separable(count: int, *path: int | str) -> Examples:
    """Images of 8x8 in four classes, told apart by which quarter is bright."""
    rng = generator(0, "separable", *path)
    labels = torch.arange(count) % 4
    images = torch.randint(0, 100, (count, 1, 8, 8), generator=rng)
    for image, label in zip(images, labels.tolist(), strict=True):
        rows, columns = 4 * (label // 2), 4 * (label % 2)
        image[:, rows : rows + 4, columns : columns + 4] += 150
    return Examples(images.to(torch.uint8), labels)


def tones(count: int, *path: int | str) -> Examples:
    """Signals of two channels and 37 places in four classes, told apart by the channel of the tone and its pitch."""
    rng = generator(0, "tones", *path)
    labels = torch.arange(count) % 4
    signals = 0.1 * torch.randn(count, 2, 37, generator=rng)
    for signal, label in zip(signals, labels.tolist(), strict=True):
        phase = torch.rand((), generator=rng) * 6
        signal[label // 2] += torch.sin(torch.arange(37) * (0.3 + 0.7 * (label % 2)) + phase)
    return Examples(signals, labels)


def make_cohort(
    *factories: str,
    clients: int = 4,
    labelled: bool = True,
    seed: int = 0,
    epochs: int = 1,
    features: int = 0,
    privacy: Privacy | None = None,
    examples: Callable[..., Examples] = separable,
) -> Cohort:
    """A small federation on `examples`, the networks dealt in turn."""
    names = [f"client{number:02}" for number in range(clients)]
    held = {name: ClientData(examples(24, name, "train"), examples(12, name, "test")) for name in names}
    public = examples(16, "public")
    shape = tuple(public.inputs.shape[1:])
    federation = Federation(held, public if labelled else public.without_labels(), classes=4, mirror=False)
    networks = {name: ModelSpec(factories[at % len(factories)], shape, 4, features) for at, name in enumerate(names)}
    training = Training(epochs, batch_size=8, learning_rate=0.002, weight_decay=1e-4)
    return Cohort(federation, networks, training, privacy, seed, torch.device("cpu"))


def normed(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A network that cannot be trained on a batch of one."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Linear(6, classes))


def convolutional(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A network for signals (channels, length): no two of its shapes have an axis of the same size."""
    return nn.Sequential(
        *(nn.Conv1d(shape[0], 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU()),
        *(nn.Conv1d(8, 12, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(12, 16, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, classes)),
    )


class Recurrent(nn.Module):
    """A network that reads signals (channels, length) as sequences of their places."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(channels, 10, batch_first=True)
        self.hidden, self.head = nn.Linear(10, 14), nn.Linear(14, classes)

    def forward(self, signals: Tensor) -> Tensor:
        states, _ = self.recurrent(signals.transpose(1, 2))
        return self.head(self.hidden(states).relu().mean(1))


def recurrent(shape: tuple[int, ...], classes: int) -> nn.Module:
    return Recurrent(shape[0], classes)


class Masked(nn.Module):
    """Rows of images as tokens, layers of causal attention that read the same buffers, a linear layer on the mean."""

    def __init__(self, classes: int, persistent: bool = True, layers: int = 3) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(8, 6), nn.Linear(6, classes)
        self.mixes = nn.ModuleList(nn.Linear(6, 18) for _ in range(layers))
        later = torch.ones(8, 8).triu(1) > 0
        self.register_buffer("mask", torch.zeros(8, 8).masked_fill(later, -torch.inf), persistent=persistent)
        self.register_buffer("places", torch.randn(8, 6, generator=generator(0, "places")), persistent=persistent)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.first(images.flatten(1, 2)) + self.places
        for mix in self.mixes:
            query, key, value = mix(tokens + 0.1 * self.places).chunk(3, -1)
            seen = (query @ key.transpose(1, 2) + self.mask).softmax(-1)
            tokens = tokens + seen @ value
        return self.head(tokens.mean(1))


def masked(shape: tuple[int, ...], classes: int) -> nn.Module:
    return Masked(classes)


class Tied(nn.Module):
    """A network two of whose layers have one weight."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, classes)
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.second(self.first(inputs.flatten(1)).relu()).relu())


def tied(shape: tuple[int, ...], classes: int) -> nn.Module:
    return Tied(classes)


class Spare(nn.Module):
    """A network with a layer that forward() does not use."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body, self.spare, self.head = nn.Linear(64, 16), nn.Linear(16, 5), nn.Linear(16, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body(inputs.flatten(1)).relu())


def spare(shape: tuple[int, ...], classes: int) -> nn.Module:
    return Spare(classes)


def headless(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A network without a last linear layer, so without features."""
    return nn.Sequential(nn.Conv2d(1, classes, 8), nn.Flatten())


def equal(first: Tensors, second: Tensors) -> bool:
    """Whether both hold the same tensors under the same names, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def distance(first: Tensors, second: Tensors) -> float:
    """The Euclidean distance of two networks' weights."""
    return math.sqrt(sum((first[name] - second[name]).square().sum().item() for name in first))


def likeness(own: Tensor, candidate: Tensor) -> float:
    """Eq. (5), one example after the other."""
    cosines = [float(a @ b / (a.norm() * b.norm())) for a, b in zip(own, candidate, strict=True)]
    return sum(cosines) / len(cosines)


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) of the softmaxes of logits (batch, classes), as it is written; the teacher is a constant."""
    p = teacher.detach().softmax(1)
    return (p * (p.log() - student.log_softmax(1))).sum(1).mean()


def make_bank(**operations: str) -> BlockBank:
    """A bank of blocks without content: one letter a block, c for conv, o for other and f for fc."""
    names = {"c": "conv", "f": "fc", "o": "other"}
    return BlockBank(
        {owner: [Block((), names[letter], (4,), (4,), nn.Identity()) for letter in row] for owner, row in operations.items()},
        (4,),
    )


def refs(text: str) -> tuple[BlockRef, ...]:
    return tuple(BlockRef(word[0], int(word[1:])) for word in text.split())
