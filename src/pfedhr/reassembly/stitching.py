"""Stitches: small trainable layers from what one block gives to what another takes."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from pfedhr.errors import PfedhrError
from pfedhr.reassembly.blocks import Shape

StitchKind = Literal["light", "full"]

IMAGE_GRID = 8
"""Side of the grid to which an image is averaged before a linear stitch reads it; sequences and signals keep as many places."""

FULL_LIMIT = 20_000_000
"""Weights that one `full` stitch may have; above, it would not fit in memory, and a `light` one takes its place."""


class StitchError(PfedhrError):
    """Two shapes that no stitch joins."""


class Resize(nn.Module):
    """Maps of any size to maps of `size` = (height, width) by bilinear interpolation."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, maps: Tensor) -> Tensor:
        """Map (batch, channels, any, any) to (batch, channels, *size)."""
        return nn.functional.interpolate(maps, self.size, mode="bilinear", align_corners=False)


class Pixels(nn.Module):
    """Maps to sequences of their pixels, row by row."""

    def forward(self, maps: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to (batch, height * width, channels)."""
        return maps.flatten(2).mT


class Grid(nn.Module):
    """Sequences to maps of `size` = (height, width), row by row from the last tokens: a class token before them is dropped."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (batch, height * width or more, channels) to (batch, channels, height, width)."""
        return tokens[:, -self.size[0] * self.size[1] :].mT.unflatten(2, self.size)


def joinable(source: Shape, target: Shape) -> bool:
    """Return whether `stitch` joins these: vectors (features,), sequences (tokens, width), signals, maps; see `stitch`."""
    return all(1 <= len(shape) <= 3 for shape in (source, target))


def affordable(source: Shape, target: Shape, kind: StitchKind) -> StitchKind:
    """Return the kind that a stitch asked for as `kind` will be: `light` where `full` would have over FULL_LIMIT weights."""
    return "full" if kind == "full" and (math.prod(source) + 1) * math.prod(target) <= FULL_LIMIT else "light"


def stitch(
    source: Shape,
    target: Shape,
    kind: StitchKind = "light",
    *,
    image: bool = False,
    layers: int = 1,
    from_signal: bool = False,
    to_signal: bool = False,
) -> nn.Module:
    """Return a trainable layer from activations of shape `source` to inputs of shape `target`, both without batch.

    `full` is the paper's ReLU(W x + b) on everything flattened, W of prod(source) x prod(target); above FULL_LIMIT weights
    `light` takes its place. `light` keeps maps as maps: a 1x1 convolution, pooled before where the map shrinks and
    interpolated after where it grows; so too sequences, by a linear layer on the width. Tokens become a map on a square grid
    where they fill one, but for a class token. `image`: the source is the network's input, so a linear stitch reads more of it.
    `from_signal`, `to_signal`: the two axes are (channels, length), as a 1d convolution has them: a map one pixel high, whose
    places are what tokens are to a sequence.
    `layers`: how many linear layers, each with its ReLU; those after the first keep the target's shape, and on maps and
    sequences read each pixel or token by itself.

    Raises StitchError for shapes that are not `joinable`.
    """
    if not joinable(source, target):
        raise StitchError(
            f"no stitch from activations of shape {source} to inputs of shape {target}: stitches join vectors (features,), "
            f"sequences (tokens, width), signals (channels, length) and maps (channels, height, width)"
        )
    before = [nn.Unflatten(2, (1, source[1]))] if from_signal else []
    after = [nn.Flatten(2)] if to_signal else []
    source, target = _map_of(source, from_signal), _map_of(target, to_signal)
    if affordable(source, target, kind) == "full":
        linear = nn.Linear(math.prod(source), math.prod(target))
        first = nn.Sequential(nn.Flatten(), linear, nn.ReLU(), nn.Unflatten(1, target))
    else:
        first = _light(source, target, image, from_signal, to_signal)
    further = [part for _ in range(1, layers) for part in (_same_shape(target), nn.ReLU())]
    return nn.Sequential(*before, *first, *further, *after)


def _map_of(shape: Shape, signal: bool) -> Shape:
    """Return the shape of a signal as a map one pixel high, any other as it is."""
    return (shape[0], 1, shape[1]) if signal else shape


def _same_shape(shape: Shape) -> nn.Module:
    """Return a linear layer that keeps activations of this shape as they lie."""
    return nn.Conv2d(shape[0], shape[0], 1) if len(shape) == 3 else nn.Linear(shape[-1], shape[-1])


def _light(source: Shape, target: Shape, image: bool, from_signal: bool, to_signal: bool) -> nn.Sequential:
    match len(source), len(target):
        case 3, 3:
            return _map_to_map(source, target)
        case 3, 2:
            return nn.Sequential(Pixels(), *_tokens_to_tokens((source[1] * source[2], source[0]), target))
        case 3, 1:
            side = IMAGE_GRID if image else 1
            places = min(source[2], side**2) if from_signal else side**2
            pooled = nn.Sequential(nn.AdaptiveAvgPool2d((1, places) if from_signal else side), nn.Flatten())
            return nn.Sequential(*pooled, nn.Linear(source[0] * places, target[0]), nn.ReLU())
        case 2, 3 if to_signal:
            return nn.Sequential(Grid((1, source[0])), *_map_to_map((source[1], 1, source[0]), target))
        case 2, 3:
            return _tokens_to_map(source, target)
        case 2, 2:
            return _tokens_to_tokens(source, target)
        case 2, _:
            places = min(source[0], IMAGE_GRID**2) if image else 1
            pooled = nn.Sequential(nn.AdaptiveAvgPool2d((places, None)), nn.Flatten())
            return nn.Sequential(*pooled, nn.Linear(places * source[1], target[0]), nn.ReLU())
        case _, 3:  # into a block that begins by averaging a map, as the head of a residual network does
            channels, height, width = target
            pixel = nn.Sequential(nn.Linear(source[0], channels), nn.ReLU(), nn.Unflatten(1, (channels, 1, 1)))
            return nn.Sequential(*pixel, Resize((height, width)))
        case _, 2:
            return nn.Sequential(nn.Unflatten(1, (1, source[0])), *_tokens_to_tokens((1, source[0]), target))
        case _:
            return nn.Sequential(nn.Linear(source[0], target[0]), nn.ReLU())


def _map_to_map(source: Shape, target: Shape) -> nn.Sequential:
    layers: list[nn.Module] = []
    smaller = (min(source[1], target[1]), min(source[2], target[2]))
    if smaller != source[1:]:
        layers.append(nn.AdaptiveAvgPool2d(smaller))
    layers += [nn.Conv2d(source[0], target[0], 1), nn.ReLU()]
    if smaller != target[1:]:
        layers.append(Resize((target[1], target[2])))
    return nn.Sequential(*layers)


def _tokens_to_tokens(source: Shape, target: Shape) -> nn.Sequential:
    layers: list[nn.Module] = []
    if source[0] > target[0]:
        layers.append(nn.AdaptiveAvgPool2d((target[0], None)))
    layers += [nn.Linear(source[1], target[1]), nn.ReLU()]
    if source[0] < target[0]:  # a sequence is a map of one channel, tokens by width
        layers += [nn.Unflatten(1, (1, source[0])), Resize((target[0], target[1])), nn.Flatten(1, 2)]
    return nn.Sequential(*layers)


def _tokens_to_map(source: Shape, target: Shape) -> nn.Sequential:
    tokens, width = source
    side = math.isqrt(tokens)
    if tokens - side**2 <= 1:  # one more than a square: a class token
        return nn.Sequential(Grid((side, side)), *_map_to_map((width, side, side), target))
    pixels = _tokens_to_tokens(source, (target[1] * target[2], target[0]))
    return nn.Sequential(*pixels, Grid((target[1], target[2])))
