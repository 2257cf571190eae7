"""What networks are made for, and the refusal of what they are not made for."""

from __future__ import annotations

from pfedhr.errors import PfedhrError

Shape = tuple[int, ...]


class ModelError(PfedhrError):
    """A network that cannot be made or used as asked; the message names it, what is wrong and a remedy."""


def need_images(what: str, shape: Shape) -> None:
    """Raise ModelError unless inputs of `shape` are images (channels, height, width)."""
    if len(shape) != 3:
        raise ModelError(f"{what} takes images (channels, height, width), not inputs of shape {shape}")


def need_tokens(what: str, shape: Shape) -> None:
    """Raise ModelError unless inputs of `shape` can be sequences of whole numbers (tokens,)."""
    if len(shape) != 1:
        raise ModelError(f"{what} takes the numbers of words (tokens,), int64, not inputs of shape {shape}")
