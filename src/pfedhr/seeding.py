"""Randomness by name: every draw belongs to a path such as ``(round, client, purpose)``, never to an order of calls."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager

import torch

Name = int | str
_WORDS = 624
"""Words in the state of mt19937."""
_FIRST_WORD = 24
"""Where they begin in torch's: after the seed, two counters of 32 bits and the place of the next word."""


def number(seed: int, *path: Name) -> int:
    """Return the 63-bit integer that `path` names under `seed`: SHA-256, so equal on every machine and version."""
    return int.from_bytes(hashlib.sha256(_text(seed, *path)).digest()[:8], "little") >> 1


def long_number(secret: int, *path: Name) -> int:
    """Return the 256-bit integer that `path` names under `secret`, for secrets that nobody shall find by trying."""
    return int.from_bytes(hashlib.sha256(_text(secret, *path)).digest(), "little")


def _text(seed: int, *path: Name) -> bytes:
    return "/".join([str(seed), *(f"{type(part).__name__}:{part}" for part in path)]).encode()


def generator(seed: int, *path: Name, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator for `path`; the same path gives the same numbers in every engine and after every resume.

    `device`: where it draws. Another device draws other numbers.
    """
    return torch.Generator(device).manual_seed(number(seed, *path))


def keyed(secret: int, *path: Name) -> torch.Generator:
    """Return a fresh generator on the CPU for `path`, which only who knows all of `secret` can have, of whatever size it is.

    Its whole state is SHAKE-256 of both: torch seeds its generator from 32 bits of a number, which can all be tried.
    """
    made = torch.Generator()
    state = made.get_state()  # of a generator at its beginning, with no normal number left over
    words = torch.frombuffer(bytearray(hashlib.shake_256(_text(secret, *path)).digest(4 * _WORDS)), dtype=torch.uint8)
    # torch keeps each of the 624 words of mt19937, little end first, in eight bytes, of which four are 0.
    state[_FIRST_WORD : _FIRST_WORD + 8 * _WORDS].view(_WORDS, 8)[:, :4] = words.view(_WORDS, 4)
    return made.set_state(state)


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
