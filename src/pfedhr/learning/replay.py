"""Steps of training that a CUDA device has recorded once and replays.

The kernels of a small network are done before Python has launched the next ones, so that the device waits most of the time. A
CUDA graph holds the kernels of one whole step and is launched at once. It does the same work in every replay, on what then lies
in the same memory: a step whose work differs from batch to batch (numbers drawn on the CPU, values looked at) would silently be
the recorded one for ever. So only what is known to be `steady` is recorded; all else is launched step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Function = TypeVar("Function", bound=Callable[..., Any])
Step = Callable[[Tensor], None]
"""Trains on the places of a batch (batch,) int64."""

WARM_UP = 3
"""Steps before the recorded one: libraries choose their algorithms, and the optimiser makes its state."""
FEWEST_STEPS = 40
"""Recording takes as long as some ten steps: it has to pay."""
_MARK = "_steady"
_KNOWN = ("torch.", "pfedhr.")


def steady(function: Function, *parts: Callable[..., Any] | None) -> Function:
    """Mark what training calls in each step as doing the same work on the device each time, if all its `parts` do.

    That is: all tensors it uses are on the model's device, it draws from no generator but torch's global ones, and neither it
    nor the shapes of what it computes depend on values.
    """
    if all(part is None or is_steady(part) for part in parts):
        setattr(function, _MARK, True)
    return function


def is_steady(function: Callable[..., Any]) -> bool:
    """Return whether `function` is marked as `steady`."""
    return getattr(function, _MARK, False)


def replayable(model: nn.Module, loss: Callable[..., Any], steps: int) -> bool:
    """Return whether so many steps of training `model` by `loss` can be replayed, and take long enough to be worth it.

    A module of the user's own may do in its forward() whatever Python can, so a network with one is launched step by step,
    unless it was rebuilt from its blueprint, which is straight-line code.
    """
    return (
        steps >= FEWEST_STEPS
        and is_steady(loss)
        and all(value.is_cuda for value in model.parameters())
        and all(type(part).__module__.startswith(_KNOWN) for part in model.modules())
    )


class Replayed:
    """A step of training on batches of `size`, recorded at its first call but `WARM_UP`; other batches are launched."""

    def __init__(self, step: Step, optimiser: torch.optim.Optimizer, size: int) -> None:
        device = optimiser.param_groups[0]["params"][0].device
        self._step = step
        self._optimiser = optimiser
        self._batch = torch.zeros(size, dtype=torch.int64, device=device)
        self._stream = torch.cuda.Stream(device)
        self._launched = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Tensor) -> None:
        """Train on `batch`."""
        if len(batch) != len(self._batch):
            self._step(batch)
        elif self._launched < WARM_UP:
            self._launch_aside(batch)
            self._launched += 1
        else:
            self._batch.copy_(batch)
            self._graph = self._graph or self._record()
            self._graph.replay()

    def _launch_aside(self, batch: Tensor) -> None:
        """Take the step on the stream that it is recorded on: what autograd and libraries set up belongs to a stream."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            self._step(batch)
        current.wait_stream(self._stream)

    def _record(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        self._optimiser.zero_grad()  # so that gradients are made anew, in memory that is the graph's
        self._allow_recording(True)
        with torch.cuda.graph(graph, stream=self._stream):
            self._step(self._batch)
        self._allow_recording(False)
        return graph

    def _allow_recording(self, allowed: bool) -> None:
        for group in self._optimiser.param_groups:
            group["capturable"] = allowed
