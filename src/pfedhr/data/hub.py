"""The published data sets through the Hugging Face `datasets` package, imported only when asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pfedhr.data.examples import DataError, Examples
from pfedhr.data.formats import Part, optional_module, pool


@dataclass(frozen=True)
class _Table:
    path: str
    configuration: str | None
    image: str


_TABLES = {
    "mnist": _Table("ylecun/mnist", None, "image"),
    "fashion-mnist": _Table("zalando-datasets/fashion_mnist", None, "image"),
    "cifar-10": _Table("uoft-cs/cifar10", None, "img"),
    "svhn": _Table("ufldl-stanford/svhn", "cropped_digits", "image"),
}


def on_hub(name: str) -> bool:
    """Say whether the set `name` can be had through the hub."""
    return name in _TABLES


def load_from_hub(name: str) -> Examples:
    """Return the pooled train and test parts of `name`, uint8 images (n, channels, height, width).

    DataError says how to install `datasets` when it is absent, and what to do when the hub gives nothing.
    """
    datasets = optional_module("datasets", "hf", "data.hub = true")
    table = _TABLES[name]
    parts: list[Part] = []
    for split in ("train", "test"):
        place = f"the {split} split of {table.path}"
        try:
            columns = datasets.load_dataset(table.path, table.configuration, split=split).with_format("numpy")[:]
        except (OSError, ValueError) as error:
            raise DataError(
                f"{name}: {place} could not be had from the Hugging Face hub ({error}); try again when it "
                "can be reached, or set data.hub to false and name the folder of the published files "
                "(data.dir)"
            ) from error
        images = np.asarray(columns[table.image])
        # Grey images come without a channel axis, coloured ones with the channels last.
        images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        parts.append(Part(images, np.asarray(columns["label"]), place))
    return pool(parts)
