"""Where examples come from: the embedded set, published files, the hub, a generator, or a function of the user's own."""

from __future__ import annotations

import io
import lzma
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import NamedTuple

from pfedhr.data.examples import DataError, Examples, check_inputs, check_labels
from pfedhr.data.files import Layout, read
from pfedhr.data.formats import CLASSES, cifar_part, damaged, idx_part, pool, svhn_part
from pfedhr.data.generated import TOPICS, sentences
from pfedhr.data.hub import load_from_hub, on_hub
from pfedhr.data.tabular import digits
from pfedhr.errors import nearest
from pfedhr.imports import NotFoundError, imported

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

_MNIST = Layout("mnist", IDX_FILES, ("mnist", ""), "http://yann.lecun.com/exdb/mnist/", ("", ".gz"))
FASHION = Layout(
    "fashion-mnist",
    IDX_FILES,
    ("fashion-mnist", ""),
    "https://github.com/zalandoresearch/fashion-mnist",
    ("", ".gz"),
)
_CIFAR = Layout(
    "cifar-10",
    (*(f"data_batch_{batch}.bin" for batch in range(1, 6)), "test_batch.bin"),
    ("cifar-10-batches-bin", "cifar-10", ""),
    "https://www.cs.toronto.edu/~kriz/cifar.html (the binary version, unpacked)",
)
_SVHN = Layout(
    "svhn",
    ("train_32x32.mat", "test_32x32.mat"),
    ("svhn", ""),
    "http://ufldl.stanford.edu/housenumbers/ (format 2, cropped digits)",
)


@dataclass(frozen=True)
class Dataset:
    """A whole data set: the official train and test parts pooled in that order, labels in [0, classes).

    Published sets hold uint8 images (n, channels, height, width); a set of the user's own may hold tensors of
    any dtype and shape. `mirror` says whether a left-right mirror image keeps its class. DataError if a field is of
    another type, a label is out of range, or inputs are empty, sparse, require gradients, or hold NaN or infinity.
    """

    name: str
    examples: Examples
    classes: int
    mirror: bool

    def __post_init__(self) -> None:
        # Numbers of numpy and torch would not go into files, nor to other processes.
        if type(self.classes) is not int or self.classes < 1:
            raise DataError(
                f"data set {self.name!r}: classes = {self.classes!r} of type {type(self.classes).__name__}: give an int of 1 "
                f"or more, as int(...) makes it"
            )
        if type(self.mirror) is not bool:
            raise DataError(
                f"data set {self.name!r}: mirror = {self.mirror!r} of type {type(self.mirror).__name__}: give True or False, "
                f"as bool(...) makes it"
            )
        if len(self.examples) == 0:
            raise DataError(f"data set {self.name!r} holds no examples: give it some")
        check_inputs(f"data set {self.name!r}", self.examples.inputs)
        check_labels(f"data set {self.name!r}", self.examples.labels, self.classes)


def load(name: str, directory: str = "", hub: bool = False) -> Dataset:
    """Return the data set `name`, read from files in `directory` or in the folder there that bears its name.

    `name` is one of `NAMES`, or "package.module:function", which is called with `directory` and returns a
    `Dataset`. `hub` takes mnist, fashion-mnist, cifar-10 and svhn from the Hugging Face hub instead.
    DataError says which name is unknown, which file is missing, damaged or refused, and what to do.
    """
    if ":" in name:
        return _own(name, directory)
    if name not in _SOURCES:
        hint = nearest(name, NAMES)
        raise DataError(
            f"{name!r} is not a known data set: {hint}give one of {', '.join(NAMES)}, or 'package.module:function' for your own"
        )
    source = _SOURCES[name]
    examples = load_from_hub(name) if hub and on_hub(name) else source.read(directory)
    return Dataset(name, examples, source.classes, source.mirror)


def reads_files(name: str) -> bool:
    """Say whether the set `name` is read from a folder, `data.dir`: a function of the user's own may be."""
    return ":" in name or (name in _SOURCES and _SOURCES[name].files)


def _embedded(directory: str) -> Examples:
    place = resources.files("pfedhr.data") / "embedded" / "fashion-mini.tar.xz"
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(place.read_bytes()))) as archive:
        contents = [archive.extractfile(file) for file in IDX_FILES]
        return _idx_pool([(content.read(), f"{place}/{content.name}") for content in contents if content])


def _idx(layout: Layout) -> Callable[[str], Examples]:
    return lambda directory: _idx_pool([(read(path), str(path)) for path in layout.find(directory)])


def _idx_pool(contents: list[tuple[bytes, str]]) -> Examples:
    return pool([idx_part(contents[0], contents[1]), idx_part(contents[2], contents[3])])


def _cifar(directory: str) -> Examples:
    parts = [cifar_part(read(path), str(path)) for path in _CIFAR.find(directory)]
    # The format has no header that tells its length; the files are equally long, so a short one shows.
    longest = max(len(part.labels) for part in parts)
    for part in parts:
        if len(part.labels) != longest:
            raise damaged(part.place, f"holds {len(part.labels)} images where another file holds {longest}")
    return pool(parts)


def _svhn(directory: str) -> Examples:
    return pool([svhn_part(path) for path in _SVHN.find(directory)])


class _Source(NamedTuple):
    read: Callable[[str], Examples]
    mirror: bool
    classes: int = CLASSES
    files: bool = True
    """Whether it is read from files in a folder."""


_SOURCES = {
    "fashion-mini": _Source(_embedded, mirror=True, files=False),
    "mnist": _Source(_idx(_MNIST), mirror=False),
    "fashion-mnist": _Source(_idx(FASHION), mirror=True),
    "cifar-10": _Source(_cifar, mirror=True),
    "svhn": _Source(_svhn, mirror=False),
    "digits": _Source(lambda directory: digits(), mirror=False, files=False),
    "sentences": _Source(lambda directory: sentences(), mirror=False, classes=len(TOPICS), files=False),
}
NAMES = tuple(_SOURCES)


def _own(name: str, directory: str) -> Dataset:
    try:
        function = imported(name)
    except NotFoundError as error:
        raise DataError(f"data set {name!r}: {error}") from error
    try:
        dataset = function(directory)
    except DataError as error:
        raise DataError(f"data set {name!r}: {error}") from error
    except OSError:
        raise  # it names a file or a disk, and the command line tells it so
    except Exception as error:
        raise DataError(
            f"data set {name!r} failed when called with data.dir = {directory!r}: {type(error).__name__}: {error}. A function "
            f"takes data.dir and returns a pfedhr.Dataset"
        ) from error
    if not isinstance(dataset, Dataset):
        raise DataError(f"data set {name!r}: the function returned {type(dataset).__name__}; return a pfedhr.data.Dataset")
    return dataset
