"""torchvision's networks without its compiled operators, which don't load beside a CPU build of torch."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch


def load() -> ModuleType:
    """Return torchvision.models, its operators left unregistered; timm and transformers can be imported from then on."""
    library: Any = torch.library
    before = library.register_fake
    library.register_fake = lambda *args, **kwargs: lambda function: function
    try:
        return importlib.import_module("torchvision.models")
    finally:
        library.register_fake = before
