"""The file formats in which image data sets are published, decoded and checked; none that can run code."""

from __future__ import annotations

import importlib
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pfedhr.data.examples import DataError, Examples

CLASSES = 10  # of every published set that is read here

_CIFAR_SHAPE = (3, 32, 32)


class Part(NamedTuple):
    """Images (n, channels, height, width) uint8, labels (n,) of any integer dtype, and where both are from."""

    images: NDArray[np.uint8]
    labels: NDArray[np.integer[Any]]
    place: str


def damaged(place: str, what: str) -> DataError:
    """Return the error for a file at `place` that is not as published; `what` says in which way."""
    return DataError(f"{place} is damaged or is another file: it {what}; fetch it again from where it is published")


def optional_module(name: str, extra: str, purpose: str) -> ModuleType:
    """Return the module `name`; DataError says how to install `extra` when it is absent."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        raise DataError(
            f"{purpose} needs the package {package}, which is not installed: pip install 'pfedhr[{extra}]'"
        ) from error


def pool(parts: Sequence[Part]) -> Examples:
    """Return the parts, one after the other: uint8 images (n, channels, height, width), labels 0..9.

    DataError names the part that is empty, whose images and labels differ in number, whose labels are out of
    range or whose images differ in shape from those of the first part.
    """
    for images, labels, place in parts:
        if len(images) == 0 or len(images) != len(labels):
            raise damaged(place, f"holds {len(images)} images and {len(labels)} labels, where both must be as many")
        if images.shape[1:] != parts[0].images.shape[1:]:
            expected = f"{parts[0].place} has {parts[0].images.shape[1:]}"
            raise damaged(place, f"holds images of shape {images.shape[1:]}, while {expected}")
        _check_labels(labels, 0, place)
    return Examples(
        torch.from_numpy(np.concatenate([part.images for part in parts])),
        torch.from_numpy(np.concatenate([part.labels for part in parts]).astype(np.int64)),
    )


def idx_array(content: bytes, place: str, axes: int) -> NDArray[np.uint8]:
    """Return the uint8 array in an IDX file of `axes` axes; DataError if header or length is wrong."""
    magic, header = bytes((0, 0, 8, axes)), 4 + 4 * axes
    if content[:4] != magic:
        raise damaged(place, f"begins with 0x{content[:4].hex()} where IDX has 0x{magic.hex()}")
    if len(content) < header:
        raise damaged(place, f"ends after {len(content)} bytes, inside its header of {header}")
    shape: tuple[int, ...] = struct.unpack(f">{axes}I", content[4:header])
    promised = header + math.prod(shape)
    if len(content) != promised:
        raise damaged(place, f"holds {len(content)} bytes where its header promises {promised}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def idx_part(images: tuple[bytes, str], labels: tuple[bytes, str]) -> Part:
    """Return the grey images and labels of two IDX files, each given as (content, place)."""
    return Part(idx_array(*images, axes=3)[:, None], idx_array(*labels, axes=1), f"{images[1]} with {labels[1]}")


def cifar_part(content: bytes, place: str) -> Part:
    """Return the part in one file of the CIFAR-10 binary version: rows of one label and 3 x 32 x 32 bytes."""
    row = 1 + math.prod(_CIFAR_SHAPE)
    if len(content) % row:
        raise damaged(place, f"holds {len(content)} bytes, which is not a whole number of rows of {row}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, row)
    return Part(rows[:, 1:].reshape(-1, *_CIFAR_SHAPE), rows[:, 0], place)


def svhn_part(path: Path) -> Part:
    """Return the part in an SVHN .mat file: `X` 32 x 32 x 3 x n uint8, `y` n x 1 in 1..10, 10 for digit 0."""
    scipy_io = optional_module("scipy.io", "svhn", "SVHN")
    try:
        content = scipy_io.loadmat(path, variable_names=("X", "y"))
    except Exception as error:  # the MAT reader fails on damaged bytes with nearly every built-in exception
        raise damaged(str(path), f"cannot be read as a MATLAB 5 file ({type(error).__name__}: {error})") from error
    images, labels = content.get("X"), content.get("y")
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        raise damaged(str(path), "lacks the variable X of 32 x 32 x 3 x n bytes")
    if labels is None or labels.dtype.kind not in "iu" or labels.ndim != 2 or labels.shape[1] != 1:
        raise damaged(str(path), "lacks the variable y of n x 1 integers")
    _check_labels(labels, 1, str(path))
    return Part(images.transpose(3, 2, 0, 1), labels[:, 0] % CLASSES, str(path))


def _check_labels(labels: NDArray[np.integer[Any]], lowest: int, place: str) -> None:
    highest = lowest + CLASSES - 1
    wrong = np.flatnonzero((labels < lowest) | (labels > highest))
    if len(wrong):
        first = int(wrong[0])
        raise damaged(place, f"has the label {labels.flat[first]} at position {first}, outside {lowest} to {highest}")
