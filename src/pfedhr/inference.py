"""Running networks without training them, and leaving them in the mode they were found in."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

LARGEST_BATCH = 64
"""How many examples go through a network at once. Small batches stay in a core's cache: 64 images of 28 x 28 take three
quarters of the time of 256 where networks are wide."""


@contextmanager
def inference(*models: nn.Module) -> Generator[None]:
    """Put `models` into eval mode without gradients inside the block; each module's own mode comes back after it."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def unchanged(model: nn.Module) -> Generator[None]:
    """Give the buffers of `model` back what they held before the block, whatever forward() has written into them."""
    held = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in held:
            buffer.copy_(value)


def predict(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the model's outputs (n, ...) on `inputs` (n, ...) in eval mode, batch by batch and in order.

    The model gets copies of the batches: it may change in place what it takes.
    """
    with inference(model):
        return torch.cat([model(batch.clone()) for batch in inputs.split(LARGEST_BATCH)])


@contextmanager
def repeatable() -> Generator[None]:
    """Let equal work have equal results inside the block, where torch can: sums come in one order on any number of cores.

    Small networks are faster on one thread, too.
    """
    before = torch.get_num_threads(), torch.backends.cudnn.deterministic
    be_repeatable()
    try:
        yield
    finally:
        threads, torch.backends.cudnn.deterministic = before
        torch.set_num_threads(threads)


def be_repeatable() -> None:
    """Let equal work have equal results in this process from here on."""
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True
