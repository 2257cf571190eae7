"""Finding and reading the files of a published data set, and saying what is missing."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

from pfedhr.data.examples import DataError
from pfedhr.data.formats import damaged

# Names under which pickled versions of these sets go about; none is ever opened.
_PICKLED = (
    "*.pkl",
    "*.pickle",
    "*.pt",
    "*.pth",
    "*.npy",
    "cifar-10-batches-py",
    "data_batch_?",
    "*-python.tar.gz",
)


@dataclass(frozen=True)
class Layout:
    """How a set is published: its `files`, the `folders` that may hold them, the `origin` to fetch from."""

    name: str
    files: tuple[str, ...]
    folders: tuple[str, ...]
    origin: str
    suffixes: tuple[str, ...] = ("",)

    def find(self, directory: str) -> list[Path]:
        """Return the path of every file, in the order of `files`, from the first folder that has them all.

        DataError names what is missing, the folders searched, where to get it, and any pickled version found
        instead.
        """
        root = Path(directory).expanduser()
        searched = [root / folder for folder in self.folders]
        found = [[self._variant(folder, file) for file in self.files] for folder in searched]
        for paths in found:
            whole = [path for path in paths if path is not None]
            if len(whole) == len(self.files):
                return whole
        nearest = min(found, key=lambda paths: paths.count(None))
        missing = [file for file, path in zip(self.files, nearest, strict=True) if path is None]
        raise DataError(
            f"{self.name}: no {', no '.join(missing)}{' (plain or .gz)' if len(self.suffixes) > 1 else ''} "
            f"in {' or '.join(map(str, searched))}; get the files from {self.origin} and name the folder "
            f"that holds them (data.dir){self._pickled(searched)}"
        )

    def _variant(self, folder: Path, file: str) -> Path | None:
        variants = (folder / (file + suffix) for suffix in self.suffixes)
        return next((path for path in variants if path.is_file()), None)

    def _pickled(self, searched: list[Path]) -> str:
        found = sorted({str(path) for folder in searched for pattern in _PICKLED for path in folder.glob(pattern)})
        if not found:
            return ""
        return (
            f". {', '.join(found)} cannot stand in: it holds or may hold pickled Python objects, and opening "
            f"a pickle runs whatever code is in it, so it is refused; fetch {self.files[0]} and its "
            "companions instead"
        )


def read(path: Path) -> bytes:
    """Return what the file holds, decompressed if its name ends in .gz; DataError if that fails."""
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise damaged(str(path), f"is not whole gzip ({error})") from error
