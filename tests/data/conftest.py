"""A small set in IDX files, and synthetic data sets whose every example can be told apart."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import draw_images, idx

from pfedhr.data import Dataset, Examples


@pytest.fixture
def idx_contents() -> dict[str, np.ndarray]:
    """What a small MNIST holds: 30 training and 10 test images of 28 x 28."""
    return {
        "train-images-idx3-ubyte": draw_images(30, 1, 28, 1)[:, 0],
        "train-labels-idx1-ubyte": (np.arange(30) % 10).astype(np.uint8),
        "t10k-images-idx3-ubyte": draw_images(10, 1, 28, 2)[:, 0],
        "t10k-labels-idx1-ubyte": np.arange(10, dtype=np.uint8)[::-1].copy(),
    }


@pytest.fixture
def idx_folder(tmp_path: Path, idx_contents: dict[str, np.ndarray]) -> Path:
    for file, content in idx_contents.items():
        (tmp_path / file).write_bytes(idx(content))
    return tmp_path


@pytest.fixture
def own_set(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Make a set of numbered examples loadable and return its name: input i is the one number i, label i % classes."""

    def make(count: int, classes: int = 4, name: str = "numbered") -> str:
        module = types.ModuleType(f"{name}_module")
        inputs = torch.arange(count, dtype=torch.float32)[:, None]
        examples = Examples(inputs, torch.arange(count) % classes)
        module.load = lambda directory: Dataset(name, examples, classes, mirror=False)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return f"{module.__name__}:load"

    return make
