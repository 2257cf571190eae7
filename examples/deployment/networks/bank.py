"""The bank's network: a small convolutional one. No other machine has this file."""

from torch import nn


def network(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return the network for images of `shape`, which are 28 x 28."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(shape[0], 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(8, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Flatten(), nn.Linear(16 * 7 * 7, 32), nn.ReLU()),
        nn.Linear(32, classes),
    )
