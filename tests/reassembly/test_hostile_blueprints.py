"""Blueprints that somebody has tampered with."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bounds import memory_within, seconds_within
from torch import Tensor, nn

import pfedhr
from pfedhr.inference import LARGEST_BATCH
from pfedhr.parcel import ParcelError
from pfedhr.reassembly import Blueprint, describe, rebuild
from pfedhr.reassembly.rebuilding import skeleton
from pfedhr.reassembly.shapes import VALUES_LIMIT
from pfedhr.reassembly.vocabulary import FUNCTIONS, METHODS
from pfedhr.reassembly.work import WORK_LIMIT


def value(number: int) -> dict[str, int]:
    return {"value": number}


def small() -> tuple[dict[str, Any], dict[str, Tensor]]:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    described = describe(model, torch.zeros(1, 1, 4, 4))
    return json.loads(described.blueprint.graph), described.weights(model)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


HOSTILE: list[Any] = [
    *(None, True, -1, 0, 7, 10**6, 10**12, 10**30, 1.5, float("nan"), "", "os.system", "__class__", "eval", "Linear", "conv2d"),
    *(
        [],
        {},
        [[]],
        {"value": 0},
        {"value": 99},
        {"tensor": 0},
        {"mode": True},
        {"tuple": [{"value": 1}]},
        {"dtype": "float64"},
    ),
    *({"slice": [0, 1, 0]}, {"float": "inf"}, {"import": "os"}, ["function", "getattr", {"tuple": [{"value": 0}, "data"]}, {}]),
    *(["method", "apply_", {"tuple": [{"value": 0}]}, {}], ["function", "operator.pow", {"tuple": [10**9, 10**9]}, {}]),
    ["method", "expand", {"tuple": [{"value": 0}, 10**9, -1, -1, -1]}, {}],
    ["function", "torch.zeros", {"tuple": [10**9, 10**9]}, {}],
]


def mutated(draw: random.Random, original: dict[str, Any]) -> str:
    """Return the text of a blueprint with one to three places changed, or its text cut or doubled."""
    tree = json.loads(json.dumps(original))
    for _ in range(draw.randint(1, 3)):
        *path, last = draw.choice([place for place in places(tree) if place])
        holder = tree
        for key in path:
            holder = holder[key]
        if isinstance(holder, list) and draw.random() < 0.3:
            holder.insert(last, copy.deepcopy(draw.choice(HOSTILE)))
        elif draw.random() < 0.2:
            del holder[last]
        else:
            holder[last] = copy.deepcopy(draw.choice([*HOSTILE, FUNCTION_NAMES[draw.randrange(len(FUNCTION_NAMES))]]))
    text = json.dumps(tree)
    return text if draw.random() < 0.9 else text[: draw.randrange(len(text))] if draw.random() < 0.5 else text * 2


FUNCTION_NAMES = sorted([*FUNCTIONS, *METHODS])


def attack(count: int, seed: int) -> None:
    """Rebuild mutated blueprints: each gives a module that can be made, or ParcelError, within a second and a GiB."""
    tree, weights = small()
    draw = random.Random(seed)
    refused = 0
    with memory_within(2**30):
        for _ in range(count):
            text = mutated(draw, tree)
            with seconds_within(1, text):
                try:
                    rebuild(Blueprint(text), weights)
                except ParcelError:
                    refused += 1
    assert refused > count / 2


def test_mutated_blueprints_are_refused() -> None:
    attack(1_000, 0)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_hundred_thousand_mutated_blueprints_are_refused() -> None:
    attack(100_000, 1)


def test_hostile_shapes_weights_and_nesting_are_refused() -> None:
    tree, weights = small()
    graph = json.dumps(tree)
    rebuild(Blueprint(graph), weights)
    huge = json.loads(graph)
    huge["input"][1] = [1, VALUES_LIMIT, 4]
    large = json.loads(graph)
    large["layers"][0][1]["out_channels"] = 10**10
    twice = graph.replace('"ties"', '"ties": [], "ties"')
    for text in ("[" * 100_000, json.dumps(huge), json.dumps(large), twice, "{}", "", "null", "[]", '"x"'):
        with pytest.raises(ParcelError):
            rebuild(Blueprint(text), weights)
    for change in (
        {"layer0.weight": torch.full((2, 1, 3, 3), float("nan"))},
        {"layer0.weight": torch.full((2, 1, 3, 3), float("inf"))},
        {"layer0.weight": torch.zeros(2, 1, 3)},
        {"layer0.weight": torch.zeros(2, 1, 3, 3, dtype=torch.float64)},
        {"layer9.weight": torch.zeros(1)},
        {"layer1.running_mean": torch.tensor([0.0, float("nan")])},
    ):
        with pytest.raises(ParcelError):
            rebuild(Blueprint(graph), weights | change)
    masked = {"layer1.running_mean": torch.tensor([0.0, -torch.inf])}  # a buffer, as masks are
    assert torch.equal(
        rebuild(Blueprint(graph), weights | masked).state_dict()["layer1.running_mean"], masked["layer1.running_mean"]
    )
    with pytest.raises(ParcelError, match="layer0"):
        rebuild(Blueprint(graph), {name: value for name, value in weights.items() if name != "layer0.weight"})


@pytest.mark.parametrize(
    "line",
    [
        ["function", "operator.pow", {"tuple": [10**9, 10**9]}, {}],
        ["function", "operator.mul", {"tuple": [{"tuple": [1, 2]}, 10**12]}, {}],
        ["function", "torch.zeros", {"tuple": [10**6, 10**6]}, {}],
    ],
)
def test_numbers_and_lists_that_would_fill_the_memory_are_refused(line: list[Any]) -> None:
    tree, weights = small()
    tree["values"].insert(2, line)
    with pytest.raises(ParcelError):
        rebuild(Blueprint(json.dumps(tree)), weights)


def line(function: str, *args: Any, **kwargs: Any) -> list[Any]:
    return ["function", function, {"tuple": list(args)}, kwargs]


def blueprint(values: list[Any], *layers: Any, shape: tuple[int, ...] = (4,), dtype: str = "float32", output: int = 0) -> str:
    tree = {"input": [dtype, shape], "layers": layers, "tensors": [], "ties": [], "values": values, "output": value(output)}
    return json.dumps(tree)


def tuple_of(*items: Any) -> dict[str, Any]:
    return {"tuple": list(items)}


DOUBLED = [line("operator.add", value(at), value(at)) for at in range(1, 29)]


NESTED = [line("operator.add", tuple_of(value(at)), tuple_of(value(at))) for at in range(1, 29)]


PICKED = [line("operator.getitem", tuple_of(tuple_of(value(at), value(at))), 0) for at in range(1, 29)]


STACKED = {"input_size": 1, "hidden_size": 1, "num_layers": 64, "bidirectional": True, "batch_first": True}


AT_ONCE = [line("torch.zeros", VALUES_LIMIT) for _ in range(5)]


PRODUCTS = [line("torch.zeros", 4096, 4096), *(line("torch.matmul", value(at), value(at)) for at in range(1, 9))]


POOLED = line("functional.max_pool2d", value(1), 2**13, 1)


LONG = {"input_size": 1, "hidden_size": 64, "batch_first": True}


CALLED = ["layer", 0, {"tuple": [value(1)]}, {}]


SUMS = [line("operator.add", value(at), value(at + 1)) for at in range(1, 5)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (blueprint([line("operator.add", "zeros", "zeros"), *DOUBLED]), "gives a str"),
        (blueprint([line("operator.getitem", tuple_of("zeros"), 0)]), "gives a str"),
        (blueprint([line("operator.add", tuple_of(1), tuple_of(1)), *NESTED]), "values in tuples"),
        (blueprint([line("operator.add", tuple_of(1), tuple_of(1)), *PICKED]), "values in tuples"),
        (blueprint([], *[["LSTM", STACKED]] * 400), "tensors"),
        (blueprint([*AT_ONCE, *SUMS]), "at once"),
        (blueprint([["method", "expand", {"tuple": [value(0), VALUES_LIMIT // LARGEST_BATCH + 1, -1, -1]}, {}]]), "numbers"),
        (blueprint(PRODUCTS), f"multiply-adds, more than {WORK_LIMIT}"),
        (blueprint([line("torch.zeros", 1, 2**14, 2**14), POOLED]), f"multiply-adds, more than {WORK_LIMIT}"),
        (blueprint([line("torch.zeros", 64, 2**18, 1), CALLED], ["LSTM", LONG]), f"multiply-adds, more than {WORK_LIMIT}"),
    ],
    ids=["text", "picked text", "nested", "picked", "stacked", "at once", "largest batch", "products", "pooled", "steps"],
)
def test_a_short_blueprint_does_not_fill_memory_or_time(text: str, reason: str) -> None:
    with memory_within(2**28), seconds_within(3), pytest.raises(ParcelError, match=reason):
        skeleton(text)


BAGS = ["EmbeddingBag", {"num_embeddings": 3, "embedding_dim": 4}]


WORDS = line("torch.zeros", 4, dtype={"dtype": "int64"})


TABLE = line("torch.zeros", tuple_of(3, 4))


@pytest.mark.parametrize(
    "values",
    [
        [WORDS, ["layer", 0, tuple_of(value(1), value(1)), {}]],
        [WORDS, ["layer", 0, tuple_of(value(1)), {"offsets": value(1)}]],
        [["layer", 0, tuple_of(value(0), None, value(0)), {}]],
        [["layer", 0, tuple_of(value(0)), {"per_sample_weights": value(0)}]],
        [["layer", 0, tuple_of(), {"input": value(0)}]],
        [WORDS, TABLE, line("functional.embedding_bag", value(1), value(2), value(1))],
        [WORDS, TABLE, line("functional.embedding_bag", value(1), value(2), offsets=value(1))],
        [TABLE, line("functional.embedding_bag", value(0), value(1), per_sample_weights=value(0))],
        [TABLE, line("functional.embedding_bag", input=value(0), weight=value(1))],
    ],
)
def test_bags_that_are_told_by_offsets_are_refused(values: list[Any]) -> None:
    """torch reads wherever offsets point to, and they travel as weights: no check of shapes sees them."""
    with pytest.raises(ParcelError, match="give no offsets"):
        skeleton(blueprint(values, BAGS, shape=(5,), dtype="int64"))


def test_nothing_in_the_package_runs_received_data_as_code() -> None:
    forbidden = re.compile(
        r"import pickle|(?<!safetensors\.)torch\.load\(|(?<![.\w])(eval|exec)\(|marshal|shelve|dill|allow_pickle=True"
    )
    for path in Path(pfedhr.__file__).parent.rglob("*.py"):
        assert not forbidden.findall(path.read_text()), path
