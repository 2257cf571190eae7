"""Your own network and your own data, by name in an experiment file.

    cd examples && pfedhr run own_model_and_data.toml

`make` is a factory of networks and `load` gives the data set: each is named as "module:function", and the module only has to
be importable from where you stand.
"""

import torch
from torch import nn

from pfedhr import Dataset, Examples


def make(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return your network for inputs of `shape`, without the batch axis: it must give one logit a class."""
    channels = shape[0]
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(channels, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4)),
        nn.Flatten(),
        nn.Linear(24 * 4 * 4, classes),
    )


def load(directory: str) -> Dataset:
    """Return your data from `data.dir`; here, 1,200 drawn discs, squares and crosses of 20 x 20 pixels."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(1200) % 3
    images = torch.randint(0, 160, (1200, 1, 20, 20), generator=rng)
    rows, columns = torch.meshgrid(torch.arange(20), torch.arange(20), indexing="ij")
    for image, label in zip(images, labels.tolist(), strict=True):
        middle, size = torch.randint(7, 13, (2,), generator=rng), int(torch.randint(3, 7, (), generator=rng))
        down, right = (rows - middle[0]).abs(), (columns - middle[1]).abs()
        inside = (down**2 + right**2 <= size**2, torch.maximum(down, right) <= size, (down.minimum(right) <= 1))[label]
        image[0][inside & (torch.maximum(down, right) <= size)] += 95
    return Dataset("shapes", Examples(images.to(torch.uint8), labels), classes=3, mirror=True)
