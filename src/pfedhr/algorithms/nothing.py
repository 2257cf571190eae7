"""States and contents of methods that keep or send next to nothing."""

from __future__ import annotations

from dataclasses import dataclass

from pfedhr.parcel import Tensors


@dataclass(frozen=True)
class Nothing:
    """No state, or no content."""


@dataclass(frozen=True)
class Own:
    """A client's own weights."""

    weights: Tensors
