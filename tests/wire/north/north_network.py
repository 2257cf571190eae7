"""A network that only the client in the north can import: convolutions with a gate between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Gated(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.value = nn.Conv2d(channels, channels, 3, padding=1)
        self.gate = nn.Conv2d(channels, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        return maps + torch.relu(self.value(maps)) * torch.sigmoid(self.gate(maps))


def make(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(shape[0], 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Gated(8),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * (shape[1] // 2) * (shape[2] // 2), 24),
        nn.ReLU(),
        nn.Linear(24, classes),
    )
