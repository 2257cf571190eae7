"""Make the embedded data set: 500 training and 100 test images of every class of Fashion-MNIST.

    python scripts/make_fashion_mini.py FOLDER FILE

FOLDER holds the four original IDX files (plain or .gz), FILE is written. Of each official part the first
images of every class are taken, in the order of the file, and nothing is changed in them: the result is a tar
archive of four IDX files, compressed by xz. The archive is the same on every machine; its compressed form may
differ between releases of liblzma.
"""

from __future__ import annotations

import io
import lzma
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pfedhr.data.files import read
from pfedhr.data.formats import idx_array
from pfedhr.data.sources import FASHION, IDX_FILES

PER_CLASS = {"train": 500, "t10k": 100}

# Of the filters tried (none, up, left, average, Paeth, median edge; by image and by pixel), none and these
# contexts gave the smallest file: the repeated textures of the garments serve LZMA better than differences of
# neighbours do.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 3, "lp": 0, "pb": 0}]


def idx(array: NDArray[np.uint8]) -> bytes:
    """Return a uint8 array as the bytes of an IDX file."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def archive(folder: str) -> bytes:
    """Return the uncompressed tar archive made from the original files in `folder`."""
    paths: dict[str, Path] = dict(zip(IDX_FILES, FASHION.find(folder), strict=True))
    members: dict[str, bytes] = {}
    for part, count in PER_CLASS.items():
        image_file, label_file = (file for file in IDX_FILES if file.startswith(part))
        images = idx_array(read(paths[image_file]), image_file, axes=3)
        labels = idx_array(read(paths[label_file]), label_file, axes=1)
        chosen = np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]))
        members |= {image_file: idx(images[chosen]), label_file: idx(labels[chosen])}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as target:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            target.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    Path(sys.argv[2]).write_bytes(lzma.compress(archive(sys.argv[1]), filters=FILTERS))
