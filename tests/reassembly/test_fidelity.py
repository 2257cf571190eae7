"""What a blueprint keeps of a network besides what it computes: what learns, and what the batch size changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pfedhr.algorithms.teacher import draft, teacher_network
from pfedhr.algorithms.uploads import Source, deposit_sources, structure_means
from pfedhr.parcel import ParcelError
from pfedhr.reassembly import (
    Blueprint,
    DecompositionError,
    DescriptionError,
    Recipe,
    cut,
    decompose,
    describe,
    rebuild,
    rebuild_blocks,
    register,
)
from pfedhr.reassembly.vocabulary import registered


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))


def frozen() -> nn.Sequential:
    """Its first layer and one bias do not learn."""
    model = network()
    model[0].requires_grad_(False)
    model[3].bias.requires_grad_(False)
    return model


def learning(module: nn.Module) -> list[bool]:
    return [value.requires_grad for value in module.parameters()]


INPUTS = torch.randn(5, 6)


def source(model: nn.Module, examples: int = 1) -> Source:
    described = describe(model, INPUTS)
    return Source(described.blueprint, cut(described.blueprint), described.weights(model), examples)


def test_frozen_weights_stay_frozen_in_twin_blocks_and_candidates() -> None:
    model = frozen()
    described = describe(model, INPUTS)
    weights = described.weights(model)
    twin = rebuild(described.blueprint, weights)
    expected = [False, False, True, True, True, False, True, True]
    assert learning(model) == learning(twin) == expected
    assert torch.equal(twin(INPUTS), model(INPUTS))
    for most in (0, 2, 1):
        blocks = rebuild_blocks(cut(described.blueprint, most), weights)
        assert [flag for block in blocks for flag in learning(block.module)] == expected
    sources = {"own": source(model)}
    bank = deposit_sources(sources, torch.device("cpu"))
    first, _, last = bank.chain("own")
    candidate = teacher_network(draft(Recipe((first, last)), bank, sources, "light", 1))
    assert {name for name, value in candidate.named_parameters() if not value.requires_grad} == {
        "block1.layer0.weight",
        "block1.layer0.bias",
    }


def test_networks_that_freeze_other_weights_are_other_structures() -> None:
    sources = {"a": source(frozen()), "b": source(network()), "c": source(frozen())}
    assert set(structure_means(sources)) == {"a+1", "b"}
    assert "frozen" not in sources["b"].blueprint.graph  # its hash is what it was before there was such a part


class Fixed(nn.Module):
    """A frozen tied matrix, and whole numbers, which never learn."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight = self.first.weight.requires_grad_(False)
        self.gain = nn.Parameter(torch.tensor([1, 2, 3]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x))))) * self.gain


def test_tied_and_integer_weights_that_are_frozen_travel() -> None:
    model = Fixed()
    described = describe(model, INPUTS)
    assert json.loads(described.blueprint.graph)["frozen"] == ["layer0.weight"]
    twin = rebuild(described.blueprint, described.weights(model))
    assert torch.equal(twin(INPUTS), model(INPUTS))
    twin(INPUTS).sum().backward()
    names = {name for name, value in twin.named_parameters() if value.grad is None}
    assert names == {"layer0.weight", "tensor0"}
    assert twin.get_parameter("layer1.weight") is twin.get_parameter("layer0.weight")


class Halted(nn.Module):
    """Computes its features under no_grad, as a backbone that shall not learn is often written."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = torch.relu(self.body(x))
        return self.head(hidden)


def test_no_gradient_flows_where_forward_lets_none_flow() -> None:
    model = Halted()
    described = describe(model, INPUTS)
    twin = rebuild(described.blueprint, described.weights(model))
    for one in (model, twin):
        one(INPUTS).sum().backward()
        assert [value.grad is None for value in one.parameters()] == [True, True, False, False]


class SelfFreezing(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.scale, self.shift = size, nn.Parameter(torch.ones(size), False), nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


@pytest.mark.parametrize("learns", [False, True])
def test_a_registered_layer_learns_what_it_did_not_what_its_constructor_says(
    learns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pfedhr.reassembly.vocabulary.registered", dict(registered))
    register(SelfFreezing)
    model = nn.Sequential(nn.Linear(6, 4), SelfFreezing(4))
    model[1].scale.requires_grad_(learns)
    described = describe(model, INPUTS)
    assert learning(rebuild(described.blueprint, described.weights(model))) == [True, True, learns, True]


HOSTILE: list[Any] = [
    *([], {}, None, True, 1, "layer0.weight", [None], [[]], [{}], [1], ["layer9.weight"], ["layer1.running_mean"]),
    *(["layer0.weight", "layer0.weight"], ["layer0.weight"] * 20_001, ["__class__"], ["layer0"]),
]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: str(value)[:30])
def test_a_hostile_list_of_frozen_weights_is_refused(value: Any) -> None:
    model = frozen()
    described = describe(model, INPUTS)
    tree = json.loads(described.blueprint.graph) | {"frozen": value}
    with pytest.raises(ParcelError, match=r"frozen|freezes"):
        rebuild(Blueprint(json.dumps(tree)), described.weights(model))


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * -100


class Reverse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Reversed.apply(x)  # type: ignore[return-value]


class ReversedLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return Reversed.apply(super().forward(input))  # type: ignore[return-value]


def test_an_autograd_function_is_refused_by_name_or_kept_in_a_registered_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pfedhr.reassembly.vocabulary.registered", dict(registered))
    model = nn.Sequential(nn.Linear(6, 4), Reverse(), nn.Linear(4, 3))
    for take in (describe, decompose):
        with pytest.raises(DecompositionError, match=r"Reversed is an autograd\.Function.*pfedhr\.register"):
            take(model, INPUTS)
    with pytest.raises(DescriptionError, match=r"pfedhr\.register\(ReversedLinear\)"):
        describe(nn.Sequential(ReversedLinear(6, 3)), INPUTS)
    register(Reverse)
    described = describe(model, INPUTS)
    twin = rebuild(described.blueprint, described.weights(model))
    for one in (model, twin):
        one(INPUTS).sum().backward()
    pairs = zip(model.parameters(), twin.parameters(), strict=True)
    assert all(torch.equal(one.grad, other.grad) for one, other in pairs if one.grad is not None and other.grad is not None)
    assert model[0].weight.grad is not None
