"""Random views of images that keep their class, for contrastive learning without labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luminance (ITU-R BT.601)."""


@dataclass(frozen=True)
class Augmentation:
    """A crop of 80 to 100 % of the area; then, where classes bear a mirror image, a flip, else a small rotation; colour.

    The settings of pFedHR's contrastive tuning but for the rotation, which stands in where a mirrored digit would be another.
    `mirror`: whether a mirror image keeps its class.
    """

    mirror: bool

    def __call__(
        self, images: Float[Tensor, "batch channels height width"], rng: torch.Generator
    ) -> Float[Tensor, "batch channels height width"]:
        """Return one view of each image, values in [-1, 1] as they came; every draw is from `rng`."""
        moved = self._move(images, rng)
        return moved if images.shape[1] != 3 else _colour(moved, rng)

    def _move(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Crop, and flip or rotate, by one affine map an image."""
        count = len(images)
        scale = _uniform(rng, count, 0.8, 1.0).sqrt()
        shift = _uniform(rng, 2 * count, -1.0, 1.0).view(count, 2) * (1 - scale)[:, None]
        if self.mirror:
            sign = (torch.rand(count, generator=rng) < 0.5).float() * 2 - 1
            cosine, sine = torch.ones(count), torch.zeros(count)
        else:
            sign = torch.ones(count)
            angle = _uniform(rng, count, -math.radians(15), math.radians(15))
            cosine, sine = angle.cos(), angle.sin()
        # Coordinates go from -1 to 1 along both sides, whatever their lengths, and a turn needs one unit along both.
        height, width = images.shape[2:]
        rows = [torch.stack([sign * scale * cosine, -scale * sine * (height / width), shift[:, 0]], 1)]
        rows.append(torch.stack([sign * scale * sine * (width / height), scale * cosine, shift[:, 1]], 1))
        grid = functional.affine_grid(torch.stack(rows, 1).to(images), list(images.shape), align_corners=False)
        return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _uniform(rng: torch.Generator, count: int, low: float, high: float) -> Tensor:
    return torch.rand(count, generator=rng) * (high - low) + low


def _colour(images: Tensor, rng: torch.Generator) -> Tensor:
    """Jitter brightness, contrast, saturation by up to 40 % and hue by 36 degrees in four of five; grey in one of five."""
    count = len(images)

    def draw(low: float, high: float) -> Tensor:
        return _uniform(rng, count, low, high).view(-1, 1, 1, 1).to(images)

    weights = torch.tensor(GREY).view(1, 3, 1, 1).to(images)
    pixels = (images + 1) / 2

    def grey(of: Tensor) -> Tensor:
        return (of * weights).sum(1, keepdim=True)

    jittered = (pixels * draw(0.6, 1.4)).clamp(0, 1)
    middle = grey(jittered).mean((2, 3), keepdim=True)
    jittered = (middle + (jittered - middle) * draw(0.6, 1.4)).clamp(0, 1)
    jittered = (grey(jittered) + (jittered - grey(jittered)) * draw(0.6, 1.4)).clamp(0, 1)
    jittered = _turn_hue(jittered, draw(-0.1, 0.1).view(-1) * 2 * math.pi).clamp(0, 1)
    pixels = torch.where(draw(0.0, 1.0) < 0.8, jittered, pixels)
    pixels = torch.where(draw(0.0, 1.0) < 0.2, grey(pixels).expand_as(pixels), pixels)
    return pixels * 2 - 1


def _turn_hue(pixels: Tensor, angle: Tensor) -> Tensor:
    """Rotate colours about the grey axis (1, 1, 1) by `angle` (batch,) in radians, by Rodrigues' formula."""
    cosine, sine = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    axis = torch.full((3,), 3**-0.5).to(pixels)
    cross = torch.linalg.cross(axis.expand(3, 3), torch.eye(3).to(pixels), dim=1).T
    turn = cosine * torch.eye(3).to(pixels) + sine * cross + (1 - cosine) * torch.outer(axis, axis)
    return torch.einsum("bij,bjhw->bihw", turn, pixels)
