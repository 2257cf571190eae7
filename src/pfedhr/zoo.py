"""The networks that come with the package: the four CNNs of pFedHR, an MLP and a residual network.

The CNNs follow Wang et al., "Towards Personalized Federated Learning via Heterogeneous Model Reassembly"
(NeurIPS 2023, arXiv 2308.08643), as fixed by the parameter counts of the authors' networks at 3x32x32. Their CNN2 was the
same network as CNN1; here it has the third convolution of the follow-up paper's appendix. Inputs of other sizes
keep the same layers: a map smaller than a kernel is padded, and a map of one pixel is not pooled.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from pfedhr.errors import PfedhrError

Shape = tuple[int, ...]


class ModelError(PfedhrError):
    """A network that cannot be made or used as asked; the message names it, what is wrong and a remedy."""


class _Maps:
    """Builds named convolution blocks one after the other, and knows the shape of the map so far."""

    def __init__(self, shape: Shape) -> None:
        if len(shape) != 3:
            raise ModelError(f"a convolutional network takes images (channels, height, width), not inputs of shape {shape}")
        self.channels, self.height, self.width = shape
        self.blocks: OrderedDict[str, nn.Module] = OrderedDict()

    def add(self, channels: int, kernel: int, padding: int, *tail: nn.Module | str) -> None:
        """Append a convolution and what follows it; the string "pool" stands for a max-pool of 2, "norm" for a batch norm."""
        # A map smaller than the kernel would have no output at all: pad it to keep its size.
        padding = padding if min(self.height, self.width) + 2 * padding >= kernel else kernel // 2
        layers: list[nn.Module] = [nn.Conv2d(self.channels, channels, kernel, padding=padding)]
        self.channels = channels
        self.height += 2 * padding - kernel + 1
        self.width += 2 * padding - kernel + 1
        for part in tail:
            if part == "norm":
                layers.append(nn.BatchNorm2d(channels))
            elif isinstance(part, nn.Module):
                layers.append(part)
            elif min(self.height, self.width) >= 2:
                layers.append(nn.MaxPool2d(2))
                self.height, self.width = self.height // 2, self.width // 2
        self.blocks[f"conv{len(self.blocks) + 1}"] = nn.Sequential(*layers)

    def finish(self, widths: tuple[int, ...], classes: int, tails: tuple[tuple[nn.Module, ...], ...]) -> nn.Sequential:
        """Return the whole network: the convolutions, then linear layers of `widths`, each with its tail, then the logits."""
        blocks: OrderedDict[str, nn.Module] = OrderedDict(self.blocks, flatten=nn.Flatten())
        entering = self.channels * self.height * self.width
        for number, (width, tail) in enumerate(zip(widths, tails, strict=True), start=1):
            blocks[f"fc{number}"] = nn.Sequential(nn.Linear(entering, width), *tail)
            entering = width
        blocks[f"fc{len(widths) + 1}"] = nn.Linear(entering, classes)
        return nn.Sequential(blocks)


def cnn1(shape: Shape, classes: int) -> nn.Module:
    """Return CNN1: two convolutions, two linear layers; 97,384 parameters at (3, 32, 32) and ten classes."""
    maps = _Maps(shape)
    maps.add(10, 5, 0, "pool", nn.ReLU())
    maps.add(64, 5, 0, "pool", nn.ReLU())
    return maps.finish((50,), classes, ((nn.ReLU(), nn.Dropout(0.5)),))


def cnn2(shape: Shape, classes: int) -> nn.Module:
    """Return CNN2: three convolutions, two linear layers; 228,712 parameters at (3, 32, 32) and ten classes."""
    maps = _Maps(shape)
    maps.add(10, 5, 0, "pool", nn.ReLU())
    maps.add(64, 5, 0, "pool", nn.ReLU())
    maps.add(128, 5, 0, nn.ReLU())
    return maps.finish((50,), classes, ((nn.ReLU(), nn.Dropout(0.5)),))


def cnn3(shape: Shape, classes: int) -> nn.Module:
    """Return CNN3: five convolutions, four linear layers; 2,510,178 parameters at (3, 32, 32) and ten classes."""
    maps = _Maps(shape)
    maps.add(6, 5, 0, nn.ReLU())
    maps.add(16, 5, 0, nn.ReLU())
    maps.add(32, 5, 0)  # the published network has no activation here
    maps.add(64, 5, 0, nn.ReLU(), "pool")
    maps.add(128, 5, 0, nn.ReLU())
    tails = ((nn.ReLU(), nn.Dropout(0.25)), (nn.ReLU(),), (nn.ReLU(),))
    return maps.finish((1024, 128, 64), classes, tails)


def cnn4(shape: Shape, classes: int) -> nn.Module:
    """Return CNN4: six convolutions with batch norm, three linear layers; 5,852,170 parameters at (3, 32, 32), ten classes."""
    maps = _Maps(shape)
    maps.add(32, 3, 1, "norm", nn.ReLU())
    maps.add(64, 3, 1, nn.ReLU(), "pool")
    maps.add(128, 3, 1, "norm", nn.ReLU())
    maps.add(128, 3, 1, nn.ReLU(), "pool", nn.Dropout2d(0.05))
    maps.add(256, 3, 1, "norm", nn.ReLU())
    maps.add(256, 3, 1, nn.ReLU(), "pool", nn.Dropout(0.1))
    return maps.finish((1024, 512), classes, ((nn.ReLU(),), (nn.ReLU(),)))


def mlp(shape: Shape, classes: int) -> nn.Module:
    """Return a multilayer perceptron on the flattened input: hidden layers of 256, 128 and 64."""
    widths = (math.prod(shape), 256, 128, 64)
    blocks: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (entering, leaving) in enumerate(pairwise(widths), start=1):
        blocks[f"fc{number}"] = nn.Sequential(nn.Linear(entering, leaving), nn.ReLU())
    blocks["fc4"] = nn.Linear(widths[-1], classes)
    return nn.Sequential(blocks)


class Residual(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut, as in He et al. (CVPR 2016), figure 5 left."""

    def __init__(self, entering: int, leaving: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(entering, leaving, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(leaving)
        self.conv2 = nn.Conv2d(leaving, leaving, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(leaving)
        same = stride == 1 and entering == leaving
        self.shortcut = nn.Identity() if same else nn.Conv2d(entering, leaving, 1, stride)

    def forward(self, images: Tensor) -> Tensor:
        """Map (batch, entering, height, width) to (batch, leaving, height / stride, width / stride)."""
        inner = torch.relu(self.norm1(self.conv1(images)))
        return torch.relu(self.norm2(self.conv2(inner)) + self.shortcut(images))


class ResidualNetwork(nn.Module):
    """A small residual network: a stem of 16 channels, three residual blocks of 16, 32 and 64, the mean, a linear layer."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        if len(shape) != 3:
            raise ModelError(f"a residual network takes images (channels, height, width), not inputs of shape {shape}")
        self.stem = nn.Sequential(nn.Conv2d(shape[0], 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.residual1 = Residual(16, 16, 1)
        self.residual2 = Residual(16, 32, 2)
        self.residual3 = Residual(32, 64, 2)
        self.head = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (batch, channels, height, width) to logits (batch, classes)."""
        maps = self.residual3(self.residual2(self.residual1(self.stem(images))))
        return self.head(maps.mean((2, 3)))


ZOO: dict[str, Callable[[Shape, int], nn.Module]] = {
    "cnn1": cnn1,
    "cnn2": cnn2,
    "cnn3": cnn3,
    "cnn4": cnn4,
    "mlp": mlp,
    "resnet": ResidualNetwork,
}
