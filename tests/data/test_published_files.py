"""Loading the published formats from small generated files; what is said when one is missing or damaged."""

from __future__ import annotations

import gzip
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import IDX_FILES, draw_images, idx

from pfedhr.data import DataError, load

BATCHES = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]


def assert_one_paragraph(message: str) -> None:
    assert "\n" not in message
    assert ".." not in message


@pytest.mark.parametrize("folder", ["", "mnist"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files(tmp_path: Path, idx_contents: dict[str, np.ndarray], folder: str, suffix: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    for file, content in idx_contents.items():
        data = idx(content)
        (tmp_path / folder / (file + suffix)).write_bytes(gzip.compress(data) if suffix else data)
    mnist = load("mnist", str(tmp_path))
    train, train_labels, test, test_labels = idx_contents.values()
    assert mnist.examples.inputs.dtype == torch.uint8
    assert mnist.examples.inputs.shape == (40, 1, 28, 28)
    assert np.array_equal(mnist.examples.inputs[:, 0].numpy(), np.concatenate([train, test]))
    assert mnist.examples.labels.tolist() == [*train_labels.tolist(), *test_labels.tolist()]
    assert (mnist.name, mnist.classes, mnist.mirror) == ("mnist", 10, False)


def test_only_fashion_of_the_idx_sets_may_be_mirrored(idx_folder: Path) -> None:
    assert load("fashion-mnist", str(idx_folder)).mirror
    assert not load("mnist", str(idx_folder)).mirror


def write_cifar(folder: Path, rows: int = 4) -> tuple[np.ndarray, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    images = draw_images(rows * len(BATCHES), 3, 32, 3)
    labels = (np.arange(len(images)) % 10).astype(np.uint8)
    for number, name in enumerate(BATCHES):
        part = slice(number * rows, (number + 1) * rows)
        flat = images[part].reshape(rows, -1)
        (folder / name).write_bytes(np.concatenate([labels[part, None], flat], 1).tobytes())
    return images, labels


@pytest.mark.parametrize("folder", ["", "cifar-10", "cifar-10-batches-bin"])
def test_cifar_binary(tmp_path: Path, folder: str) -> None:
    images, labels = write_cifar(tmp_path / folder)
    cifar = load("cifar-10", str(tmp_path))
    assert np.array_equal(cifar.examples.inputs.numpy(), images)
    assert cifar.examples.labels.tolist() == labels.tolist()
    assert cifar.mirror


def write_svhn(folder: Path, labels: list[int]) -> np.ndarray:
    savemat = pytest.importorskip("scipy.io").savemat
    images = draw_images(2 * len(labels), 3, 32, 4)
    for part, file in zip(np.split(images, 2), ("train_32x32.mat", "test_32x32.mat"), strict=True):
        content = {"X": part.transpose(2, 3, 1, 0), "y": np.array(labels, np.uint8)[:, None]}
        savemat(folder / file, content, do_compression=True)
    return images


def test_svhn(tmp_path: Path) -> None:
    """The real SVHN could not be had; these files are generated in the layout that its authors describe."""
    images = write_svhn(tmp_path, [10, 1, 9, 5])
    svhn = load("svhn", str(tmp_path))
    assert np.array_equal(svhn.examples.inputs.numpy(), images)
    assert svhn.examples.labels.tolist() == [0, 1, 9, 5] * 2
    assert not svhn.mirror


def test_svhn_damage_names_the_file(tmp_path: Path) -> None:
    write_svhn(tmp_path, [10, 0, 9, 5])
    with pytest.raises(DataError, match=r"train_32x32\.mat .*label 0 at position 1, outside 1 to 10"):
        load("svhn", str(tmp_path))
    (tmp_path / "train_32x32.mat").write_bytes(b"no MATLAB file at all" * 20)
    with pytest.raises(DataError, match=r"train_32x32\.mat .*cannot be read as a MATLAB 5 file"):
        load("svhn", str(tmp_path))
    pytest.importorskip("scipy.io").savemat(tmp_path / "train_32x32.mat", {"y": np.ones((3, 1), np.uint8)})
    with pytest.raises(DataError, match=r"train_32x32\.mat .*lacks the variable X"):
        load("svhn", str(tmp_path))


def test_svhn_without_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_svhn(tmp_path, [1])
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DataError, match=r"pip install 'pfedhr\[svhn\]'"):
        load("svhn", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "file", "folder", "origin"),
    [
        ("mnist", "train-images-idx3-ubyte", "mnist", "http://yann.lecun.com/exdb/mnist/"),
        ("fashion-mnist", "t10k-labels-idx1-ubyte", "fashion-mnist", "github.com/zalandoresearch/fashion-mnist"),
        ("cifar-10", "data_batch_1.bin", "cifar-10-batches-bin", "https://www.cs.toronto.edu/~kriz/cifar.html"),
        ("svhn", "train_32x32.mat", "svhn", "http://ufldl.stanford.edu/housenumbers/"),
    ],
)
def test_missing_files_are_named(tmp_path: Path, name: str, file: str, folder: str, origin: str) -> None:
    with pytest.raises(DataError) as caught:
        load(name, str(tmp_path))
    message = str(caught.value)
    assert_one_paragraph(message)
    for part in (name, file, str(tmp_path / folder), f" or {tmp_path}", origin, "data.dir"):
        assert part in message
    assert "pickle" not in message


def test_only_what_is_missing_is_named(idx_folder: Path) -> None:
    (idx_folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="no t10k-labels-idx1-ubyte ") as caught:
        load("mnist", str(idx_folder))
    assert "train-images" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "pickled"),
    [
        ("cifar-10", "cifar-10-batches-py/data_batch_1"),
        ("cifar-10", "cifar-10/data_batch_1"),
        ("cifar-10", "cifar-10-python.tar.gz"),
        ("mnist", "mnist.pkl"),
        ("mnist", "mnist/training.pt"),
        ("fashion-mnist", "images.npy"),
    ],
)
def test_pickled_versions_are_refused_unopened(tmp_path: Path, name: str, pickled: str) -> None:
    path = tmp_path / pickled
    path.parent.mkdir(exist_ok=True)
    opened = tmp_path / "opened"
    path.write_bytes(pickle.dumps(Trap(str(opened))))
    with pytest.raises(DataError) as caught:
        load(name, str(tmp_path))
    message = str(caught.value)
    assert_one_paragraph(message)
    assert path.name in message or path.parent.name in message
    assert "runs whatever code is in it, so it is refused; fetch " in message
    assert not opened.exists()


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path(self.path),)


HEADER_OF_IMAGES = 16
DAMAGES = {
    "magic": (IDX_FILES[0], lambda data: b"\x00\x00\x0d\x03" + data[4:], "0x00000d03 where IDX has 0x00000803"),
    "axes": (IDX_FILES[1], lambda data: b"\x00\x00\x08\x03" + data[4:], "0x00000803 where IDX has 0x00000801"),
    "empty": (IDX_FILES[0], lambda data: b"", "begins with 0x where"),
    "header": (IDX_FILES[2], lambda data: data[:10], "ends after 10 bytes, inside its header of 16"),
    "short": (IDX_FILES[0], lambda data: data[:-7], "holds 23529 bytes where its header promises 23536"),
    "long": (IDX_FILES[3], lambda data: data + b"\x00", "holds 19 bytes where its header promises 18"),
    "huge": (
        IDX_FILES[0],
        lambda data: data[:4] + b"\xff" * 12 + data[16:],
        f"its header promises {16 + (2**32 - 1) ** 3}",
    ),
    "label": (IDX_FILES[1], lambda data: data[:11] + b"\x0a" + data[12:], "has the label 10 at position 3"),
    "count": (IDX_FILES[1], lambda data: idx(np.zeros(29, np.uint8)), "holds 30 images and 29 labels"),
    "none": (IDX_FILES[2], lambda data: idx(np.zeros((0, 28, 28), np.uint8)), "holds 0 images and 10 labels"),
    "size": (IDX_FILES[2], lambda data: idx(np.zeros((10, 20, 28), np.uint8)), "images of shape (1, 20, 28)"),
}


@pytest.mark.parametrize("case", DAMAGES)
@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_idx_files_are_named(idx_folder: Path, case: str, zipped: bool) -> None:
    file, damage, what = DAMAGES[case]
    path = idx_folder / file
    content = damage(path.read_bytes())
    if zipped:
        path.unlink()
        path = path.with_name(f"{file}.gz")
        content = gzip.compress(content)
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load("mnist", str(idx_folder))
    message = str(caught.value)
    assert_one_paragraph(message)
    assert str(path) in message
    assert what in message
    assert "fetch it again" in message


@pytest.mark.parametrize("content", [b"not gzip", gzip.compress(b"cut off" * 99, mtime=0)[:-9], b""])
def test_bad_gzip_is_named(idx_folder: Path, content: bytes) -> None:
    (idx_folder / IDX_FILES[0]).unlink()
    (idx_folder / f"{IDX_FILES[0]}.gz").write_bytes(content)
    with pytest.raises(DataError, match=rf"{IDX_FILES[0]}\.gz is damaged"):
        load("mnist", str(idx_folder))


def test_damaged_cifar_files_are_named(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    path = tmp_path / "data_batch_3.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"data_batch_3\.bin .*holds 12291 bytes.*whole number of rows of 3073"):
        load("cifar-10", str(tmp_path))
    path.write_bytes(whole[:-3073])
    with pytest.raises(DataError, match=r"data_batch_3\.bin .*holds 3 images where another file holds 4"):
        load("cifar-10", str(tmp_path))
    path.write_bytes(bytes([11]) + whole[1:])
    with pytest.raises(DataError, match=r"data_batch_3\.bin .*label 11 at position 0, outside 0 to 9"):
        load("cifar-10", str(tmp_path))
