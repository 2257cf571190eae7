"""Multilayer perceptrons of several widths and depths, on inputs of any shape."""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import pairwise

from torch import nn

from pfedhr.zoo.shape import Shape


def _perceptron(shape: Shape, hidden: tuple[int, ...], classes: int) -> nn.Module:
    widths = (math.prod(shape), *hidden)
    blocks: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (entering, leaving) in enumerate(pairwise(widths), start=1):
        blocks[f"fc{number}"] = nn.Sequential(nn.Linear(entering, leaving), nn.ReLU())
    blocks[f"fc{len(widths)}"] = nn.Linear(widths[-1], classes)
    return nn.Sequential(blocks)


def mlp(shape: Shape, classes: int) -> nn.Module:
    """Return a multilayer perceptron on the flattened input: hidden layers of 256, 128 and 64."""
    return _perceptron(shape, (256, 128, 64), classes)


def mlp_wide(shape: Shape, classes: int) -> nn.Module:
    """Return a shallow, wide perceptron: hidden layers of 512 and 256."""
    return _perceptron(shape, (512, 256), classes)


def mlp_deep(shape: Shape, classes: int) -> nn.Module:
    """Return a deep, narrow perceptron: six hidden layers of 64."""
    return _perceptron(shape, (64,) * 6, classes)
