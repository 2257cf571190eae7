"""Where a step's time goes."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal, get_args

Stage = Literal["profile", "group", "propose", "assemble", "ensemble", "tune", "match"]
"""A part of the server's step that is timed by itself: the record of a round and every table of seconds know these alone."""

STAGES: tuple[Stage, ...] = get_args(Stage)


class Stopwatch:
    """Adds up the time of stages in `seconds`, which a round's record takes as they are named there."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: Stage) -> Generator[None]:
        """Count the time of the block to `stage`."""
        start = time.perf_counter()
        yield
        name = f"{stage}_seconds"
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
