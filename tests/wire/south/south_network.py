"""A network that only the client in the south can import: a convolution, a mixing of channels, and a scaled linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Scaled(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, features: Tensor) -> Tensor:
        return features + self.scale * functional.gelu(self.linear(features))


class South(nn.Module):
    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(shape[0], 12, 2, stride=2)
        self.mix = nn.Conv2d(12, 12, 3, padding=1)
        self.scaled = Scaled(12)
        self.head = nn.Linear(12, classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = functional.gelu(self.mix(functional.gelu(self.patches(images))))
        return self.head(self.scaled(functional.adaptive_max_pool2d(maps, 1).flatten(1)))


def make(shape: tuple[int, ...], classes: int) -> nn.Module:
    return South(shape, classes)
