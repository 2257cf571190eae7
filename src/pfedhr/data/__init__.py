"""Data: examples, where they come from, and how they are shared out among clients and the server."""

from __future__ import annotations

from pfedhr.data.examples import DataError, Examples, Public, Unlabelled, ready
from pfedhr.data.federation import ClientData, DataOptions, Federation, Partition, PublicOptions, build_federation
from pfedhr.data.partition import by_classes, dirichlet, holdout, iid, stratified
from pfedhr.data.sources import NAMES, Dataset, load, reads_files

__all__ = [
    "NAMES",
    "ClientData",
    "DataError",
    "DataOptions",
    "Dataset",
    "Examples",
    "Federation",
    "Partition",
    "Public",
    "PublicOptions",
    "Unlabelled",
    "build_federation",
    "by_classes",
    "dirichlet",
    "holdout",
    "iid",
    "load",
    "reads_files",
    "ready",
    "stratified",
]
