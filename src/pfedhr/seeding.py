"""Randomness by name: every draw belongs to a path such as ``(round, client, purpose)``, never to an order of calls."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager

import torch

Name = int | str


def number(seed: int, *path: Name) -> int:
    """Return the 63-bit integer that `path` names under `seed`: SHA-256, so equal on every machine and version."""
    text = "/".join([str(seed), *(f"{type(part).__name__}:{part}" for part in path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *path: Name, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator for `path`; the same path gives the same numbers in every engine and after every resume.

    `device`: where it draws. Another device draws other numbers.
    """
    return torch.Generator(device).manual_seed(number(seed, *path))


@contextmanager
def seeded(seed: int, *path: Name) -> Generator[None]:
    """Seed torch's global generators by name inside the block, and put them back as they were after it.

    Weight initialisation and dropout draw from the global generators and take no other; everything else uses `generator`.
    """
    with forked():
        torch.manual_seed(number(seed, *path))
        yield


def forked() -> AbstractContextManager[None]:
    """Return a context that puts torch's global generators back, when it ends, to where they were when it began."""
    return torch.random.fork_rng(list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else [])
