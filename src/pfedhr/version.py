"""Which code this is."""

from __future__ import annotations

import functools
import hashlib
from importlib.metadata import version
from pathlib import Path


@functools.cache
def code() -> str:
    """Return the package's version, and a digest of its code, which tells apart what bears one version."""
    root, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"pfedhr {version('pfedhr')}, code {digest.hexdigest()[:10]}"
