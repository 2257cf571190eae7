"""Dataclasses of tensors and plain values as bytes, and back: one safetensors file with the structure as JSON in its header.

No pickle and no code: what `unpack` makes is fixed by the type asked for, never by the bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Iterator
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from pfedhr.errors import PfedhrError

T = TypeVar("T")
Tensors = dict[str, Tensor]
MOST_HEADER = 100_000_000
"""Bytes of a parcel's header, which holds all but its tensors' numbers: safetensors takes no more."""
MOST_DIMENSIONS = 16
"""Of a tensor in a parcel: torch computes with no more than 64, and no network has so many."""


class ParcelError(PfedhrError):
    """Bytes, or a value, that are not what the type says."""


def pack(value: Any) -> bytes:
    """Return `value` as bytes: a dataclass whose fields are tensors, plain values, or tuples, dicts or dataclasses of these.

    Equal values, dicts in equal order, give equal bytes. Raises ParcelError for anything else.
    """
    tensors: Tensors = {}
    tree = _strip(value, "value", tensors)
    return safetensors.torch.save(tensors, {"parcel": json.dumps(tree, separators=(",", ":"))})


def unpack(cls: type[T], data: bytes, most_header: int = MOST_HEADER) -> T:
    """Return the value of type `cls` that `pack` made `data` of, with a header of at most so many bytes.

    Raises ParcelError if `data` is anything else.
    """
    tree, tensors = _open(data, most_header)
    value = _fill(cls, tree, "value", tensors)
    if tensors:
        raise ParcelError(f"the parcel holds tensors that nothing refers to: {', '.join(sorted(tensors))}")
    return value


def check_parcel(data: bytes) -> None:
    """Raise ParcelError unless `data` is a parcel, of whatever type."""
    _open(data, MOST_HEADER)


def computable(value: Tensor) -> Tensor:
    """Return floats of one byte, of which torch can neither take the largest nor tell infinities, as float32; else `value`."""
    return value.float() if value.is_floating_point() and value.itemsize < 2 else value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a value that `pack` takes."""
    match value:
        case Tensor():
            yield value
        case dict() | tuple():
            for item in value.values() if isinstance(value, dict) else value:
                yield from tensors_in(item)
        case _ if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                yield from tensors_in(getattr(value, field.name))
        case _:
            return


def _open(data: bytes, most_header: int) -> tuple[Any, Tensors]:
    """Return a parcel's structure, as JSON, and its tensors by their paths."""
    size = int.from_bytes(data[:8], "little")
    if size > most_header:  # before it is read: as JSON it may take 25 times as much memory
        raise ParcelError(f"{len(data)} bytes are not a parcel: a header of {size} bytes, where {most_header} are the most")
    try:
        tree = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["parcel"])
        tensors = safetensors.torch.load(data)
    # RuntimeError and OverflowError: torch, of a shape of huge sides around a zero, which takes no bytes.
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise ParcelError(f"{len(data)} bytes are not a parcel: {type(error).__name__}: {error}") from error
    if (most := max((tensor.dim() for tensor in tensors.values()), default=0)) > MOST_DIMENSIONS:
        raise ParcelError(f"the parcel holds a tensor of {most} dimensions, where {MOST_DIMENSIONS} are the most")
    return tree, tensors


def _strip(value: Any, path: str, tensors: Tensors) -> Any:
    """Return `value` as JSON, its tensors moved into `tensors` under their paths, which the types lead back to."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Tensor():
            # A copy each: tied tensors share memory, which a safetensors file may not.
            tensors[path] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            return None
        case dict():
            return {_key(key, path): _strip(item, _below(path, key), tensors) for key, item in value.items()}
        case tuple():
            return [_strip(item, f"{path}/{at}", tensors) for at, item in enumerate(value)]
        case _ if dataclasses.is_dataclass(value):
            names = [field.name for field in dataclasses.fields(value)]
            return {name: _strip(getattr(value, name), f"{path}/{name}", tensors) for name in names}
        case _:
            raise ParcelError(f"{path} is a {type(value).__name__}: a parcel holds tensors and plain values only")


def _key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise ParcelError(f"{path} has the key {key!r}: only strings are keys")
    return key


def _below(path: str, key: str) -> str:
    """Return the path of a dict's item: its key written as in a JSON pointer, so that no two places have the same path."""
    return f"{path}/{key.replace('~', '~0').replace('/', '~1')}"


@functools.cache
def _fields(cls: Any) -> dict[str, Any]:
    """Return the names and types of a dataclass's or named tuple's fields."""
    hints = typing.get_type_hints(cls)
    if dataclasses.is_dataclass(cls):
        return {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    return hints


def _fill(cls: Any, tree: Any, path: str, tensors: Tensors) -> Any:
    """Return the value of type `cls` from its JSON and tensors; tensors used are taken out of `tensors`."""
    origin, arguments = typing.get_origin(cls), typing.get_args(cls)
    if cls is Tensor:
        if tree is not None or path not in tensors:
            raise ParcelError(f"{path} should be a tensor")
        return tensors.pop(path)
    if origin in (types.UnionType, typing.Union):
        return _fill_union(arguments, tree, path, tensors)
    if origin is typing.Literal:
        if tree not in arguments:
            raise ParcelError(f"{path} is {tree!r}, not one of {arguments}")
        return tree
    if origin is dict:
        items = _expect(dict, tree, path).items()
        return {key: _fill(arguments[1], item, _below(path, key), tensors) for key, item in items}
    if origin is tuple:
        items = _expect(list, tree, path)
        kinds = arguments[:1] * len(items) if arguments[1:] == (...,) else arguments
        return tuple(_fill(*pair, f"{path}/{at}", tensors) for at, pair in enumerate(_pairs(kinds, items, path)))
    if isinstance(cls, type) and dataclasses.is_dataclass(cls):
        fields, found = _fields(cls), _expect(dict, tree, path)
        if set(found) != set(fields):
            raise ParcelError(f"{path} has the fields {sorted(found)}, where {cls} has {sorted(fields)}")
        return cls(**{name: _fill(kind, found[name], f"{path}/{name}", tensors) for name, kind in fields.items()})
    if isinstance(cls, type) and issubclass(cls, tuple):
        items = _pairs(tuple(_fields(cls).values()), _expect(list, tree, path), path)
        return cls(*(_fill(kind, item, f"{path}/{at}", tensors) for at, (kind, item) in enumerate(items)))
    return _expect(cls, tree, path)


def _fill_union(kinds: tuple[Any, ...], tree: Any, path: str, tensors: Tensors) -> Any:
    """Fill `X | None`, where no value and no tensor of this path is None, or a union of dataclasses, told by their fields."""
    if tree is None and path not in tensors and types.NoneType in kinds:
        return None
    wanted = [kind for kind in kinds if kind is not types.NoneType]
    if len(wanted) > 1:
        names = set(_expect(dict, tree, path))
        wanted = [kind for kind in wanted if dataclasses.is_dataclass(kind) and set(_fields(kind)) == names]
        if not wanted:
            raise ParcelError(f"{path} has the fields {sorted(names)}, which none of {kinds} has")
    return _fill(wanted[0], tree, path, tensors)


def _pairs(kinds: tuple[Any, ...], items: list[Any], path: str) -> list[tuple[Any, Any]]:
    if len(kinds) != len(items):
        raise ParcelError(f"{path} has {len(items)} items, not {len(kinds)}")
    return list(zip(kinds, items, strict=True))


def _expect(cls: Any, tree: Any, path: str) -> Any:
    """Return `tree` if it is of the plain type `cls`; an int serves as a float, a bool does not serve as an int."""
    if cls is float and type(tree) is int and abs(tree) < 2**53:
        return float(tree)
    if cls not in (dict, list, int, float, str, bool) or type(tree) is not cls:
        raise ParcelError(f"{path} is a {type(tree).__name__}, where {getattr(cls, '__name__', cls)} was expected")
    return tree
