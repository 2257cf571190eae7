from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from bounds import seconds_within
from torch import Tensor, nn
from torch.nn import functional

from pfedhr.models import ModelSpec, build
from pfedhr.parcel import ParcelError
from pfedhr.reassembly import Blueprint, DescriptionError, decompose, describe, rebuild, register
from pfedhr.reassembly.layer_shapes import run_recurrent
from pfedhr.reassembly.rebuilding import skeleton
from pfedhr.reassembly.work import Work
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
