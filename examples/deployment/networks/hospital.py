"""The hospital's network: residual blocks written by hand. No other machine has this file."""

from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, entering: int, leaving: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(entering, leaving, 3, stride, padding=1)
        self.second = nn.Conv2d(leaving, leaving, 3, padding=1)
        self.around = nn.Conv2d(entering, leaving, 1, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of 1 / stride the size."""
        return functional.relu(self.second(functional.relu(self.first(maps))) + self.around(maps))


class Residual(nn.Module):
    """A stem, two blocks, and the mean of their maps into a last layer."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList([Block(8, 16, 2), Block(16, 32, 1)])
        self.last = nn.Linear(32, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        maps = functional.relu(self.stem(images))
        for block in self.blocks:
            maps = block(maps)
        return self.last(maps.mean(dim=(2, 3)))


def network(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return the network for images of `shape`."""
    return Residual(shape[0], classes)
