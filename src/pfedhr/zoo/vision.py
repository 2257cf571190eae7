"""Networks for images of the families that came after plain convolutions: residual, MobileNet, vision transformer."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from pfedhr.zoo.shape import Shape, need_images


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
        need_images("a residual network", shape)
        self.stem = nn.Sequential(nn.Conv2d(shape[0], 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.residual1 = Residual(16, 16, 1)
        self.residual2 = Residual(16, 32, 2)
        self.residual3 = Residual(32, 64, 2)
        self.head = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (batch, channels, height, width) to logits (batch, classes)."""
        maps = self.residual3(self.residual2(self.residual1(self.stem(images))))
        return self.head(maps.mean((2, 3)))


class InvertedResidual(nn.Module):
    """Widen by a 1x1 convolution, filter each channel by a 3x3 one, narrow again: Sandler et al. (CVPR 2018), figure 4d."""

    def __init__(self, entering: int, leaving: int, stride: int, widening: int = 4) -> None:
        super().__init__()
        inner = entering * widening
        self.layers = nn.Sequential(
            nn.Conv2d(entering, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, leaving, 1, bias=False),
            nn.BatchNorm2d(leaving),
        )
        self.shortcut = stride == 1 and entering == leaving

    def forward(self, images: Tensor) -> Tensor:
        """Map (batch, entering, height, width) to (batch, leaving, height / stride, width / stride)."""
        return images + self.layers(images) if self.shortcut else self.layers(images)


class MobileNetwork(nn.Module):
    """A small MobileNetV2: a stem of 16 channels, inverted residuals of 16, 24, 24, 48 and 48, the mean, a linear layer."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        need_images("a MobileNet", shape)
        self.stem = nn.Sequential(nn.Conv2d(shape[0], 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        widths = (16, 16, 24, 24, 48, 48)
        self.blocks = nn.Sequential(*(InvertedResidual(a, b, 1 if a == b else 2) for a, b in pairwise(widths)))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (batch, channels, height, width) to logits (batch, classes)."""
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


class VisionTransformer(nn.Module):
    """A small vision transformer, after Dosovitskiy et al. (ICLR 2021): patches, a class token, three layers of width 64.

    A patch has an eighth of the image's height and width; edges that do not fill one are not seen.
    """

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        need_images("a vision transformer", shape)
        width = 64
        patch = (max(shape[1] // 8, 1), max(shape[2] // 8, 1))
        self.patches = nn.Conv2d(shape[0], width, patch, stride=patch)
        count = (shape[1] // patch[0]) * (shape[2] // patch[1])
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, count + 1, width) * 0.02)
        self.layers = nn.Sequential(
            *(nn.TransformerEncoderLayer(width, 4, 2 * width, 0.1, "gelu", batch_first=True, norm_first=True) for _ in range(3))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (batch, channels, height, width) to logits (batch, classes)."""
        patches = self.patches(images).flatten(2).mT
        tokens = torch.cat([self.class_token.expand(len(patches), -1, -1), patches], 1) + self.positions
        return self.head(self.norm(self.layers(tokens))[:, 0])
