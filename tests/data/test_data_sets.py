"""The embedded set, and known facts of the full sets where PFEDHR_DATA names a folder that holds their files."""

from __future__ import annotations

import importlib.util
import io
import lzma
import os
import tarfile
from importlib import resources
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pfedhr.data import DataError, Dataset, load

FOLDER = os.environ.get("PFEDHR_DATA", "")
# As published with the sets: examples a digit in the two parts of MNIST, and the pixel means of the training
# parts.
MNIST_COUNTS = (
    [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
)


def full(name: str) -> Dataset:
    if not FOLDER:
        pytest.skip("PFEDHR_DATA names no folder with the original files")
    try:
        return load(name, FOLDER)
    except DataError as error:
        if "get the files from" not in str(error):
            raise
        pytest.skip(f"PFEDHR_DATA: {error}")


def means(images: torch.Tensor) -> list[float]:
    totals = images.sum((0, 2, 3), dtype=torch.int64)
    return [round(total.item() / (255 * images[:, 0].numel()), 4) for total in totals]


def counts(labels: torch.Tensor) -> list[int]:
    return labels.bincount(minlength=10).tolist()


def test_embedded_set() -> None:
    mini = load("fashion-mini")
    images, labels = mini.examples.inputs, mini.examples.labels
    assert (mini.classes, mini.mirror) == (10, True)
    assert (images.dtype, tuple(images.shape)) == (torch.uint8, (6000, 1, 28, 28))
    assert counts(labels[:5000]) == [500] * 10
    assert counts(labels[5000:]) == [100] * 10
    assert int(images.sum(dtype=torch.int64)) == 344_205_497
    # Classes are mixed, as in the original files.
    assert len(labels[:100].unique()) == 10


def test_embedded_file_is_small_and_comes_with_its_licence() -> None:
    folder = resources.files("pfedhr.data") / "embedded"
    assert len((folder / "fashion-mini.tar.xz").read_bytes()) < 2_600_000
    licence = (folder / "LICENSE-fashion-mnist.txt").read_text()
    assert "Zalando SE" in licence
    assert "https://github.com/zalandoresearch/fashion-mnist" in licence


def script() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "make_fashion_mini.py"
    spec = importlib.util.spec_from_file_location("make_fashion_mini", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_embedded_file_is_what_the_script_makes() -> None:
    full("fashion-mnist")
    embedded = (resources.files("pfedhr.data") / "embedded" / "fashion-mini.tar.xz").read_bytes()
    assert lzma.decompress(embedded) == script().archive(FOLDER)


def test_the_script_takes_the_first_of_every_class(idx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = script()
    monkeypatch.setattr(make, "PER_CLASS", {"train": 2, "t10k": 1})
    with tarfile.open(fileobj=io.BytesIO(make.archive(str(idx_folder)))) as archive:
        (idx_folder / "mini").mkdir()
        for member in archive:  # extractall() has filters, and wants one, from Python 3.11.4 on only
            content = archive.extractfile(member)
            assert content is not None
            (idx_folder / "mini" / member.name).write_bytes(content.read())
    mini = load("fashion-mnist", str(idx_folder / "mini")).examples
    whole = load("fashion-mnist", str(idx_folder)).examples
    # The generated labels run 0..9 three times over, then 9..0: the first two of each are the first twenty.
    assert torch.equal(mini.inputs, torch.cat([whole.inputs[:20], whole.inputs[30:]]))
    assert torch.equal(mini.labels, torch.cat([whole.labels[:20], whole.labels[30:]]))


def test_embedded_images_are_in_the_original() -> None:
    original = {bytes(image) for image in full("fashion-mnist").examples.inputs.numpy().reshape(-1, 784)}
    embedded = load("fashion-mini").examples.inputs.numpy().reshape(-1, 784)
    assert all(bytes(image) in original for image in embedded)


def test_full_mnist() -> None:
    examples = full("mnist").examples
    assert tuple(examples.inputs.shape) == (70_000, 1, 28, 28)
    assert (counts(examples.labels[:60_000]), counts(examples.labels[60_000:])) == MNIST_COUNTS
    assert means(examples.inputs[:60_000]) == [0.1307]
    assert examples.labels[:5].tolist() == [5, 0, 4, 1, 9]


def test_full_fashion_mnist() -> None:
    examples = full("fashion-mnist").examples
    assert tuple(examples.inputs.shape) == (70_000, 1, 28, 28)
    assert counts(examples.labels[:60_000]) == [6000] * 10
    assert counts(examples.labels[60_000:]) == [1000] * 10
    assert means(examples.inputs[:60_000]) == [0.2860]


def test_full_cifar_10() -> None:
    examples = full("cifar-10").examples
    assert tuple(examples.inputs.shape) == (60_000, 3, 32, 32)
    assert counts(examples.labels[:50_000]) == [5000] * 10
    assert counts(examples.labels[50_000:]) == [1000] * 10
    assert means(examples.inputs[:50_000]) == [0.4914, 0.4822, 0.4465]
    assert examples.labels[:4].tolist() == [6, 9, 9, 4]
