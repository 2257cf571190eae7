"""Making the images of one data set look like those of another."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pfedhr.data.examples import DataError
from pfedhr.learning.augment import GREY


def like(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return uint8 `images` (n, channels, height, width) in `shape` (channels, height, width).

    The resizing is bilinear and antialiased. Grey is repeated over three channels, and three channels become
    their luminance. DataError for anything but uint8 images of one or three channels.
    """
    found = tuple(images.shape[1:])
    if images.dtype != torch.uint8 or len(found) != 3 or len(shape) != 3 or not {found[0], shape[0]} <= {1, 3}:
        raise DataError(
            f"public examples of shape {found} and type {images.dtype} for clients' examples of shape "
            f"{shape}: only uint8 images of 1 or 3 channels can be made alike; take a set of the clients' shape and type, or "
            'public examples of their own set (public.name = "")'
        )
    pixels = images.float()
    if found[0] > shape[0]:
        pixels = (pixels * torch.tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)
    pixels = functional.interpolate(pixels, shape[1:], mode="bilinear", antialias=True)
    return pixels.expand(-1, shape[0], -1, -1).round().clamp(0, 255).to(torch.uint8)
