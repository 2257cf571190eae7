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
from torch.nn import functional

import pfedhr
from pfedhr.inference import LARGEST_BATCH
from pfedhr.models import ModelSpec, build
from pfedhr.parcel import ParcelError
from pfedhr.reassembly import Blueprint, DescriptionError, decompose, describe, rebuild, register
from pfedhr.reassembly.layer_shapes import run_recurrent
from pfedhr.reassembly.rebuilding import skeleton
from pfedhr.reassembly.shapes import VALUES_LIMIT
from pfedhr.reassembly.vocabulary import FUNCTIONS, METHODS
from pfedhr.reassembly.work import WORK_LIMIT, Work
from pfedhr.zoo import IMAGES, TEXT, VECTORS


class LeNet(nn.Module):
    """All by functions: pooling, activation, a view by size, dropout, an in-place residual and a layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4 * 3 * 3, 3)
        self.register_buffer("scale", torch.tensor(0.5), persistent=False)

    def forward(self, images: Tensor, gain: float = 2.0) -> Tensor:
        maps = functional.relu_(self.first(images * gain))
        maps = self.again(functional.relu(self.again(maps)))
        maps += images[:, :, 1:-1, 1:-1] * self.scale
        maps = functional.max_pool2d(maps, 2)
        return self.head(functional.dropout(maps.view(maps.size(0), -1), 0.3, self.training))


class Tied(nn.Module):
    """A text network whose classifier reads the embedding's own matrix, with a constant made in forward()."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.mix, self.twin, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(9, 2)
        self.twin.weight = self.mix.weight

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.words(tokens) + torch.arange(4.0)
        hidden = self.twin(torch.tanh(self.mix(hidden))).mean(1)
        return self.head(functional.linear(hidden, self.words.weight))


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(5, 2)

    def forward(self, series: Tensor) -> Tensor:
        hidden, _ = self.layer(series)
        return self.head(hidden[:, -1])


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.token, self.query, self.head = nn.Parameter(torch.randn(1, 1, 4)), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, series: Tensor) -> Tensor:
        tokens = self.encoder(torch.cat([self.token.expand(series.shape[0], -1, -1), series], 1))
        weights = torch.softmax(self.query(tokens) @ tokens.transpose(1, 2) / 4**0.5, -1)
        return self.head((weights @ tokens)[:, 0])


def networks() -> Iterator[Any]:
    for name in (*IMAGES, *VECTORS):
        yield pytest.param(build(ModelSpec(name, (3, 12, 12), 4), 0), torch.randn(2, 3, 12, 12), id=name)
    for name in TEXT:
        yield pytest.param(build(ModelSpec(name, (9,), 4), 0), torch.randint(256, (2, 9)), id=name)
    yield pytest.param(LeNet(), torch.randn(2, 1, 8, 8), id="functional")
    yield pytest.param(Tied(), torch.randint(9, (2, 6)), id="tied")
    for layer in (nn.LSTM(4, 5, batch_first=True), nn.GRU(4, 5, 2, batch_first=True), nn.RNN(4, 5, batch_first=True)):
        yield pytest.param(Recurrent(layer), torch.randn(2, 7, 4), id=type(layer).__name__)


@pytest.mark.parametrize(("model", "example"), list(networks()))
def test_a_rebuilt_network_computes_and_learns_the_same(model: nn.Module, example: Tensor) -> None:
    described = describe(model, example)
    assert describe(model.eval(), example).blueprint == described.blueprint
    model.train()
    twin = rebuild(Blueprint(described.blueprint.graph), described.weights(model))
    inputs = torch.cat([example, example, example[:1]])
    for _ in range(2):
        results: list[Tensor] = []
        for network in (model, twin):
            torch.manual_seed(1)
            optimizer = torch.optim.SGD(network.parameters(), 0.1)
            optimizer.zero_grad()
            logits = network(inputs)
            logits.logsumexp(1).sum().backward()
            optimizer.step()
            results.append(logits.detach())
        assert torch.equal(*results)
    assert torch.equal(model.eval()(inputs), twin.eval()(inputs))
    learnt = twin.state_dict()
    assert all(torch.equal(learnt[name], value) for name, value in described.weights(model).items())


def test_attention_is_described_with_its_class_token_and_batch_size() -> None:
    model, example = Attending(), torch.randn(2, 3, 4)
    described = describe(model, example)
    twin = rebuild(described.blueprint, described.weights(model))
    inputs = torch.randn(5, 3, 4)
    for training in (True, False):
        results = []
        for network in (model.train(training), twin.train(training)):
            torch.manual_seed(1)
            results.append(network(inputs))
        assert torch.equal(*results)


def test_every_block_of_a_network_can_be_rebuilt_alone() -> None:
    model, inputs = build(ModelSpec("resnet", (3, 8, 8), 4), 0).eval(), torch.randn(3, 3, 8, 8)
    values = inputs
    for block in decompose(model, inputs):
        described = describe(block.module, values)
        values = rebuild(described.blueprint, described.weights(block.module)).eval()(values)
    assert torch.equal(values, model(inputs))


def test_equal_structures_have_equal_blueprints_whatever_their_names() -> None:
    first = describe(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.zeros(1, 4))
    other = nn.Module()
    other.hospital, other.secret = nn.Linear(4, 3), nn.ReLU()
    other.forward = lambda x: other.secret(other.hospital(x))  # type: ignore[method-assign]
    second = describe(nn.Sequential(other), torch.zeros(1, 4))
    third = describe(nn.Sequential(nn.Linear(4, 5), nn.ReLU()), torch.zeros(1, 4))
    assert first.blueprint.hash == second.blueprint.hash != third.blueprint.hash
    assert "hospital" not in second.blueprint.graph
    assert set(second.names.values()) == {"0.hospital.weight", "0.hospital.bias"}


class Spline(nn.Module):
    def __init__(self, knots: int) -> None:
        super().__init__()
        self.knots, self.weight = knots, nn.Parameter(torch.ones(knots))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.sum()


class Complex(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.to(torch.complex64).abs()


def test_a_type_that_no_blueprint_holds_is_named() -> None:
    with pytest.raises(DescriptionError, match="complex64"):
        describe(nn.Sequential(nn.Linear(4, 3), Complex(), nn.Linear(3, 2)), torch.zeros(1, 4))


def test_a_shared_custom_layer_is_allowed_by_name() -> None:
    model = nn.Sequential(nn.Linear(4, 3), Spline(2))
    with pytest.raises(DescriptionError, match=r"pfedhr\.register\(Opaque\)"):
        describe(nn.Sequential(nn.Linear(4, 3), Opaque()), torch.zeros(1, 4))
    register(Spline)
    described = describe(model, torch.zeros(1, 4))
    inputs = torch.randn(3, 4)
    assert torch.equal(rebuild(described.blueprint, described.weights(model))(inputs), model(inputs))
    with pytest.raises(DescriptionError, match="known already"):
        register(Spline, "Linear")
    stranger = Blueprint(described.blueprint.graph.replace("Spline", "Unknown"))
    with pytest.raises(ParcelError, match="'Unknown' are not known here"):
        rebuild(stranger, described.weights(model))


class Opaque(nn.Module):
    """Asks for its mode, so that it is taken as one layer."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if self.training else x


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


def value(number: int) -> dict[str, int]:
    return {"value": number}


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


@pytest.mark.parametrize(
    ("layer", "shape", "work"),
    [
        (nn.Linear(40, 30), (50, 40), 50 * 40 * 30),
        (nn.Conv2d(3, 8, 3, padding=1), (2, 3, 28, 28), 2 * 28 * 28 * 9 * 3 * 8),
        (nn.AvgPool2d(11, 1), (1, 30, 30), 20 * 20 * 11 * 11),
        (nn.MaxPool1d(11, 1), (2, 1, 30), 2 * 20 * 11),
        (nn.EmbeddingBag(10, 64), (2, 20), 2 * 20 * 64),
        (nn.Bilinear(10, 20, 30), (2, 20), 2 * 10 * 20 * 30),
        (nn.TransformerEncoderLayer(64, 4, 128), (50, 1, 64), 50 * (4 * 64 * 64 + 2 * 50 * 64 + 2 * 64 * 128)),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, nn.Module) else "",
)
def test_what_a_layer_computes_is_counted_on_shapes(layer: nn.Module, shape: tuple[int, ...], work: int) -> None:
    """No less than there is, and not many times as much."""
    whole = isinstance(layer, nn.EmbeddingBag)
    given = torch.zeros(shape, dtype=torch.int64 if whole else torch.float32, device="meta")
    with Work() as counted:
        layer.to("meta")(*([given[:, :10], given] if isinstance(layer, nn.Bilinear) else [given]))
    assert work <= counted.done < 40 * work


@pytest.mark.parametrize("layer", [nn.LSTM(4, 5, 2), nn.GRU(4, 5, batch_first=True, bidirectional=True), nn.RNN(4, 5)])
def test_a_recurrent_layers_shapes_are_known_from_its_first_step(layer: nn.RNNBase) -> None:
    series = torch.randn(3, 7, 4)
    (outputs, state), (known, kept) = layer(series), run_recurrent(layer, (series,), {})
    assert known.shape == outputs.shape
    for one, other in zip(*((s if isinstance(s, tuple) else (s,)) for s in (state, kept)), strict=True):
        assert one.shape == other.shape


def test_long_series_are_described_at_once() -> None:
    with seconds_within(5):
        described = describe(Recurrent(nn.LSTM(4, 5, batch_first=True)), torch.zeros(1, 5_000, 4))
        skeleton(described.blueprint.graph)


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(9, 4), nn.Linear(4, 2)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(functional.embedding_bag(words, self.bag.weight, mode="sum") + self.bag(words))


def test_bags_of_words_are_rows() -> None:
    model, words = Bag(), torch.randint(9, (3, 5))
    described = describe(model, words)
    assert torch.equal(rebuild(described.blueprint, described.weights(model))(words), model(words))


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
