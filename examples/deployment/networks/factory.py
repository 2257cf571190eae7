"""The factory's network: linear layers only. No other machine has this file."""

from math import prod

from torch import nn


def network(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return the network for inputs of any `shape`."""
    return nn.Sequential(
        nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), 64), nn.ReLU()),
        nn.Sequential(nn.Linear(64, 32), nn.ReLU()),
        nn.Linear(32, classes),
    )
