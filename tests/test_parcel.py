from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pfedhr.parcel import ParcelError, pack, unpack


class Point(NamedTuple):
    name: str
    place: int


@dataclass(frozen=True)
class Leaf:
    weights: dict[str, Tensor]
    share: float


@dataclass(frozen=True)
class Other:
    share: float


@dataclass(frozen=True)
class Tree:
    points: tuple[Point, ...]
    pair: tuple[int, str]
    leaf: Leaf | None
    leaves: dict[str, Leaf]
    either: Leaf | Other
    bare: Tensor | None
    kind: Literal["a", "b"]
    flag: bool


def make_tree(**changes: object) -> Tree:
    leaf = Leaf({"layer.weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(3)}, 0.1)
    values = {
        "points": (Point("x", 1), Point("y/z", 2)), "pair": (1, "one"), "leaf": leaf, "leaves": {"k": leaf},
        "either": Other(2.0), "bare": torch.ones(2, dtype=torch.bfloat16), "kind": "a", "flag": True,
    }  # fmt: skip
    return Tree(**{**values, **changes})


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(same(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize(
    "changes",
    [{}, {"leaf": None}, {"bare": None}, {"points": ()}, {"either": Leaf({}, 1.0)}, {"leaves": {}}, {"kind": "b"}],
)
def test_what_is_packed_comes_back(changes: dict) -> None:
    tree = make_tree(**changes)
    data = pack(tree)
    assert same(unpack(Tree, data), tree)
    assert pack(make_tree(**changes)) == data


@given(
    st.dictionaries(st.text(max_size=5), st.lists(st.floats(width=32, allow_nan=False), max_size=4), max_size=4),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_any_names_and_values_come_back(weights: dict[str, list[float]], share: float) -> None:
    leaf = Leaf({name: torch.tensor(values) for name, values in weights.items()}, share)
    assert same(unpack(Leaf, pack(leaf)), leaf)


@dataclass(frozen=True)
class Held:
    by_client: dict[str, dict[str, Tensor | None]]


@given(st.lists(st.tuples(*[st.text("ab/~01", max_size=4)] * 2, st.booleans()), max_size=6))
def test_names_with_slashes_cannot_be_mistaken(names: list[tuple[str, str, bool]]) -> None:
    held: dict[str, dict[str, Tensor | None]] = {}
    alike = [("a/b", "c", True), ("a", "b/c", True), ("b", "a/c", False), ("b/a", "c", True)]
    for number, (client, name, there) in enumerate([*alike, *names]):
        held.setdefault(client, {})[name] = torch.tensor(number) if there else None
    assert same(unpack(Held, pack(Held(held))), Held(held))


def test_tied_and_strided_tensors_come_back_by_value_and_share_nothing() -> None:
    tensor = torch.arange(6.0).view(2, 3)
    data = pack(Leaf({"a": tensor, "tied": tensor, "view": tensor.T}, 1.0))
    back = unpack(Leaf, data).weights
    assert torch.equal(back["view"], tensor.T)
    back["a"].add_(1)
    assert torch.equal(back["tied"], tensor)
    assert torch.equal(unpack(Leaf, data).weights["a"], tensor)


def test_an_int_serves_as_a_float() -> None:
    assert unpack(Other, pack(Other(3))).share == 3.0


@pytest.mark.parametrize("value", [{1, 2}, [1], object(), Leaf({"a": [1.0]}, 1.0), Leaf({1: torch.ones(1)}, 1.0)])
def test_what_is_no_parcel_is_not_packed(value: object) -> None:
    with pytest.raises(ParcelError):
        pack(value)


def parcel_of(tree: str, tensors: dict[str, Tensor] | None = None) -> bytes:
    return safetensors.torch.save(tensors or {}, {"parcel": tree})


def parcel_of_shape(shape: list[int], body: bytes) -> bytes:
    """A parcel whose one tensor claims a shape, which safetensors itself would not write."""
    tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, len(body)]}
    tree = {"parcel": '{"weights": {"a": null}, "share": 1.0}'}
    header = json.dumps({"__metadata__": tree, "value/weights/a": tensor}).encode()
    return len(header).to_bytes(8, "little") + header + body


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a parcel"),
        (b"\x80\x04not a parcel at all", "not a parcel"),
        (safetensors.torch.save({"a": torch.ones(2)}), "not a parcel"),
        (parcel_of("{"), "not a parcel"),
        (parcel_of("[" * 100_000), "not a parcel"),
        (parcel_of('{"weights": {}}'), "fields"),
        (parcel_of('{"weights": {}, "share": 1.0, "more": 1}'), "fields"),
        (parcel_of('{"weights": {}, "share": "1"}'), "share"),
        (parcel_of('{"weights": {}, "share": true}'), "share"),
        (parcel_of('{"weights": [], "share": 1.0}'), "weights"),
        (parcel_of('{"weights": {"a": null}, "share": 1.0}'), "should be a tensor"),
        (parcel_of('{"weights": {"a": 7}, "share": 1.0}', {"value/weights/a": torch.ones(1)}), "should be a tensor"),
        (parcel_of('{"weights": {}, "share": 1.0}', {"value/weights/a": torch.ones(1)}), "nothing refers to"),
        (pack(Leaf({"a": torch.ones(8)}, 1.0))[:-5], "not a parcel"),
        (parcel_of_shape([0, 2**62, 2**62], b""), "not a parcel"),
        (parcel_of_shape([0, 2**64 - 1], b""), "not a parcel"),
        (parcel_of_shape([1] * 17, b"\0" * 4), "17 dimensions"),
        (parcel_of_shape([1] * 65, b"\0" * 4), "65 dimensions"),
    ],
)
def test_bytes_that_are_something_else_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ParcelError, match=message):
        unpack(Leaf, data)


def test_a_header_that_is_too_long_is_not_read() -> None:
    data = pack(Leaf({"a": torch.ones(8)}, 1.0))
    size = int.from_bytes(data[:8], "little")
    assert unpack(Leaf, data, size).share == 1.0
    with pytest.raises(ParcelError, match=f"a header of {size} bytes, where {size - 1} are the most"):
        unpack(Leaf, data, size - 1)
    with pytest.raises(ParcelError, match="a header of 18446744073709551615 bytes"):
        unpack(Leaf, b"\xff" * 100)


def test_a_value_outside_its_choices_is_refused() -> None:
    data = pack(make_tree())
    with pytest.raises(ParcelError, match="kind"):
        unpack(Tree, data.replace(b'\\"kind\\":\\"a\\"', b'\\"kind\\":\\"z\\"'))
