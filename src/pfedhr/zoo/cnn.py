"""The four convolutional networks of pFedHR, and the last of them in smaller widths.

They follow Wang et al., "Towards Personalized Federated Learning via Heterogeneous Model Reassembly"
(NeurIPS 2023, arXiv 2308.08643), as fixed by the parameter counts of the authors' networks at 3x32x32. Their CNN2 was the
same network as CNN1; here it has the third convolution of the follow-up paper's appendix. Inputs of other sizes
keep the same layers: a map smaller than a kernel is padded, and a map of one pixel is not pooled.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from pfedhr.zoo.shape import Shape, need_images


class _Maps:
    """Builds named convolution blocks one after the other, and knows the shape of the map so far."""

    def __init__(self, shape: Shape) -> None:
        need_images("a convolutional network", shape)
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
    return _cnn4(shape, classes, 1)


def cnn4_half(shape: Shape, classes: int) -> nn.Module:
    """Return CNN4 at half its width; 1,465,354 parameters at (3, 32, 32), ten classes."""
    return _cnn4(shape, classes, 2)


def cnn4_quarter(shape: Shape, classes: int) -> nn.Module:
    """Return CNN4 at a quarter of its width; 367,498 parameters at (3, 32, 32), ten classes."""
    return _cnn4(shape, classes, 4)


def cnn4_eighth(shape: Shape, classes: int) -> nn.Module:
    """Return CNN4 at an eighth of its width; 92,458 parameters at (3, 32, 32), ten classes."""
    return _cnn4(shape, classes, 8)


def _cnn4(shape: Shape, classes: int, divisor: int) -> nn.Module:
    """Return CNN4 with every hidden width divided, rounded up: slices of it, as HeteroFL has them (arXiv 2010.01264)."""

    def width(whole: int) -> int:
        return -(-whole // divisor)

    maps = _Maps(shape)
    maps.add(width(32), 3, 1, "norm", nn.ReLU())
    maps.add(width(64), 3, 1, nn.ReLU(), "pool")
    maps.add(width(128), 3, 1, "norm", nn.ReLU())
    maps.add(width(128), 3, 1, nn.ReLU(), "pool", nn.Dropout2d(0.05))
    maps.add(width(256), 3, 1, "norm", nn.ReLU())
    maps.add(width(256), 3, 1, nn.ReLU(), "pool", nn.Dropout(0.1))
    return maps.finish((width(1024), width(512)), classes, ((nn.ReLU(),), (nn.ReLU(),)))
