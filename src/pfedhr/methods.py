"""Methods by name: the package's own, and those of users as "package.module:Class"."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from typing import Any, Literal

from pfedhr.algorithm import Algorithm
from pfedhr.algorithms import ALGORITHMS
from pfedhr.errors import nearest
from pfedhr.imports import NotFoundError, imported

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_NAMED = ("name", "server_state", "client_state", "message_type", "reply_type")
_TYPES = (bool, int, float, str, tuple[str, ...])


def find_method(name: str) -> type[Algorithm]:
    """Return the method called `name`, imported if it is a user's. Raises NotFoundError."""
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if ":" not in name:
        raise NotFoundError(
            f"{nearest(name, ALGORITHMS)}known are {', '.join(ALGORITHMS)}, or your own as 'package.module:Class'"
        )
    found = imported(name, "class")
    if fault := _fault(found):
        raise NotFoundError(f"{fault}; see pfedhr.algorithm.Algorithm for what a method has")
    return typing.cast(type[Algorithm], found)


def name_of(method: type[Algorithm]) -> str:
    """Return what `find_method` finds the method by."""
    return method.name if ALGORITHMS.get(method.name) is method else f"{method.__module__}:{method.__qualname__}"


def _fault(found: Any) -> str:
    """Return why an object is no method that experiments can name, or nothing."""
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        return "it is no class derived from pfedhr.algorithm.Algorithm"
    if inspect.isabstract(found):
        return f"it does not define {', '.join(sorted(found.__abstractmethods__))}"
    if missing := [name for name in _NAMED if not hasattr(found, name)]:
        return f"it does not set {', '.join(missing)}"
    name: Any = found.name
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in ALGORITHMS:
        return f"its name is {name!r}, and must be one of its own, of lower-case letters, digits and hyphens between them"
    return _fault_of_fields(found)


def _fault_of_fields(method: Any) -> str:
    # What it inherits would be decorated, too, but fields that it adds itself would be none.
    if "__dataclass_params__" not in vars(method) or not method.__dataclass_params__.frozen:
        return "it must itself be decorated with @dataclass(frozen=True)"
    try:
        kinds = typing.get_type_hints(method)
    except Exception as error:
        return f"the types of its fields cannot be read: {type(error).__name__}: {error}"
    for field in dataclasses.fields(method):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            return f"its field {field.name} has no default"
        if kinds[field.name] not in _TYPES and typing.get_origin(kinds[field.name]) is not Literal:
            return f"its field {field.name} is of a type that no file has: use bool, int, float, str, tuple[str, ...], Literal"
    return ""
