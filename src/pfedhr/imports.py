"""What users name as "package.module:function"."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from pfedhr.errors import PfedhrError


class NotFoundError(PfedhrError):
    """A name that leads to no function; the message says why."""


def imported(name: str) -> Callable[..., Any]:
    """Return the function, or whatever can be called, that `name` leads to. Raises NotFoundError."""
    module_name, _, function_name = name.partition(":")
    if not all(module_name.split(".")) or "/" in module_name or not function_name.isidentifier():
        raise NotFoundError("it is not of the form 'package.module:function': name your function so")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise NotFoundError(
                f"there is no module {error.name!r} to import; install it, or put its folder on PYTHONPATH"
            ) from error
        raise NotFoundError(f"importing {module_name} failed: {type(error).__name__}: {error}") from error
    if not hasattr(module, function_name):
        raise NotFoundError(f"{module_name} has no function {function_name!r}; name one that it has")
    function = getattr(module, function_name)
    if not callable(function):
        raise NotFoundError(f"{function_name!r} in {module_name} is of type {type(function).__name__}; name a function")
    return function
