"""What users name as "package.module:function", or ":Class"."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any, Literal

from pfedhr.errors import PfedhrError

Kind = Literal["function", "class"]


class NotFoundError(PfedhrError):
    """A name that leads to nothing of use; the message says why."""


def imported(name: str, kind: Kind = "function") -> Callable[..., Any]:
    """Return the function, or whatever can be called, that `name` leads to. Raises NotFoundError."""
    module_name, attribute = _parted(name, kind)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise NotFoundError(
                f"there is no module {error.name!r} to import; install it, or put its folder on PYTHONPATH"
            ) from error
        raise NotFoundError(f"importing {module_name} failed: {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        raise NotFoundError(f"{module_name} has no {kind} {attribute!r}; name one that it has")
    found = getattr(module, attribute)
    if not callable(found):
        raise NotFoundError(f"{attribute!r} in {module_name} is of type {type(found).__name__}; name a {kind}")
    return found


def check_loaded(name: str) -> None:
    """Raise NotFoundError unless this process has imported the class `name`: what others name must not run code here."""
    module_name, attribute = _parted(name, "class")
    # vars: to ask a module for an attribute may import more, where it loads its parts late
    if module_name not in sys.modules or attribute not in vars(sys.modules[module_name]):
        raise NotFoundError(
            f"another machine names it, and for that nothing is imported here; import {module_name} where this client's own "
            "program begins, if you trust it"
        )


def _parted(name: str, kind: Kind) -> tuple[str, str]:
    module_name, _, attribute = name.partition(":")
    if not all(module_name.split(".")) or "/" in module_name or not attribute.isidentifier():
        raise NotFoundError(f"it is not of the form 'package.module:{kind}': name your {kind} so")
    return module_name, attribute
