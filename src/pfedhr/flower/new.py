"""A Flower app to begin from: `pfedhr flower new DIR`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from pfedhr.run import RunError

LICENSE = "All rights reserved, until you choose otherwise.\n"


def new_app(path: Path) -> list[Path]:
    """Write a complete app into the new or empty folder `path`; return its files. Raises RunError if it holds anything."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"{path} is not empty: name a new folder")
    path.mkdir(parents=True, exist_ok=True)
    template = resources.files("pfedhr.flower") / "template"
    texts = {item.name: item.read_text(encoding="utf-8") for item in template.iterdir() if item.is_file()}
    texts["LICENSE"] = LICENSE
    for name, text in sorted(texts.items()):
        (path / name).write_text(text, encoding="utf-8")
    return [path / name for name in sorted(texts)]
