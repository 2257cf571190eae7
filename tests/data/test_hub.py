"""Loading through the Hugging Face hub, with an in-memory stand-in for the `datasets` package.

The hub could not be reached when these were written: the stand-in returns what the "numpy" format of
`datasets` is documented to return, so these tests check the calls and the conversion, not the hub.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest
from data_files import draw_images

from pfedhr.data import DataError, load

TABLES = {
    "mnist": ("ylecun/mnist", None, "image", 1),
    "fashion-mnist": ("zalando-datasets/fashion_mnist", None, "image", 1),
    "cifar-10": ("uoft-cs/cifar10", None, "img", 3),
    "svhn": ("ufldl-stanford/svhn", "cropped_digits", "image", 3),
}


class Table:
    """A split: columns of arrays, channels last and without a channel axis when grey."""

    def __init__(self, image: str, images: np.ndarray, labels: np.ndarray) -> None:
        self.columns = {
            image: images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1),
            "label": labels,
        }

    def with_format(self, kind: str) -> Table:
        assert kind == "numpy"
        return self

    def __getitem__(self, rows: slice) -> dict[str, np.ndarray]:
        return {name: column[rows] for name, column in self.columns.items()}


def install(monkeypatch: pytest.MonkeyPatch, load_dataset: Any) -> None:
    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


@pytest.mark.parametrize("name", TABLES)
def test_both_splits_are_pooled(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path, configuration, image, channels = TABLES[name]
    images, labels = draw_images(12, channels, 28, 5), np.arange(12) % 10

    def load_dataset(asked_path: str, asked_configuration: str | None, split: str) -> Table:
        assert (asked_path, asked_configuration) == (path, configuration)
        rows = {"train": slice(0, 8), "test": slice(8, 12)}[split]
        return Table(image, images[rows], labels[rows])

    install(monkeypatch, load_dataset)
    examples = load(name, hub=True).examples
    assert np.array_equal(examples.inputs.numpy(), images)
    assert examples.labels.tolist() == labels.tolist()


def test_a_label_out_of_range_names_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table("image", draw_images(2, 1, 28, 6), np.array([3, -1]))
    install(monkeypatch, lambda path, configuration, split: table)
    with pytest.raises(DataError, match=r"the train split of ylecun/mnist .*label -1 at position 1"):
        load("mnist", hub=True)


def test_an_unreachable_hub_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(path: str, configuration: str | None, split: str) -> Table:
        raise ConnectionError("no route")

    install(monkeypatch, unreachable)
    with pytest.raises(DataError, match=r"ylecun/mnist could not be had .*no route.*data\.hub to false"):
        load("mnist", hub=True)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the package datasets.*pip install 'pfedhr\[hf\]'"):
        load("mnist", hub=True)


def test_the_embedded_set_needs_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert len(load("fashion-mini", hub=True).examples) == 6000
