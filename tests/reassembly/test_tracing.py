"""What tracing a network leaves as it was: its buffers, Python and torch, and no values of the graph."""

from __future__ import annotations

import builtins
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from pfedhr.reassembly import decompose, describe, rebuild


class Caching(nn.Module):
    """Keeps in evaluation what its weights give, as attention does with biases by place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.biases, self.head = nn.Linear(4, 6), nn.Parameter(torch.randn(3)), nn.Linear(6, 2)
        self.kept: dict[str, torch.Tensor] = {}
        self.places = [0, 1, 2, 2, 1, 0]

    def train(self, mode: bool = True) -> Caching:
        if mode:
            self.kept = {}
        return super().train(mode)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            biases = self.biases[self.places]
        else:
            if "biases" not in self.kept:
                self.kept["biases"] = self.biases[self.places]
            biases = self.kept["biases"]
        return self.head(self.first(inputs) + biases)


@pytest.mark.parametrize("evaluated_before", [False, True])
def test_a_cache_keeps_no_values_of_the_graph_and_passes_for_no_constant(evaluated_before: bool) -> None:
    model, inputs = Caching(), torch.randn(5, 4)
    model.eval()
    kept = model.kept
    if evaluated_before:
        model(inputs)
    before = dict(kept)
    description = describe(model, inputs)
    assert model.kept is kept
    assert not model.training
    assert [*kept.items()] == [*before.items()]
    assert len(decompose(model, inputs)) == 2
    assert set(description.names.values()) == set(model.state_dict())
    twin = rebuild(description.blueprint, description.weights(model))
    for training in (False, True):
        assert torch.equal(model.train(training)(inputs), twin.train(training)(inputs))


class Counting(nn.Module):
    """Counts in a buffer how often it has run."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 6), nn.Linear(6, 2)
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return self.head(torch.relu(self.first(features)))


@pytest.mark.parametrize("whole", [False, True])
def test_what_forward_writes_into_buffers_is_put_back(whole: bool) -> None:
    model = Counting()
    held = model.runs
    decompose(model, torch.zeros(2, 6), whole=whole)
    assert model.runs is held
    assert held.item() == 0


class FirstOfBatch(nn.Module):
    """Makes its class token as long as the batch by len(), as networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        assert len(tokens.shape) == 3
        with_token = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1)
        return self.head(self.layer(with_token)[:, 0])


def test_the_length_of_a_tensor_is_its_batch_size_and_len_is_left_as_it_was() -> None:
    before = builtins.len
    blocks = decompose(FirstOfBatch(), torch.zeros(1, 4, 6))
    assert [block.op for block in blocks] == ["tokenwise", "fc"]
    assert builtins.len is before


def test_threads_take_turns_at_tracing_and_leave_python_and_torch_as_they_were() -> None:
    def patched() -> tuple[Any, ...]:
        return builtins.len, torch.arange, vars(torch.autograd.Function)["apply"], nn.Module.__call__, nn.Module.__getattr__

    def cut_some(_: int) -> list[int]:
        layers = [layer for _ in range(6) for layer in (nn.Linear(6, 6), nn.ReLU())]
        return [len(decompose(nn.Sequential(*layers), torch.zeros(1, 6))) for _ in range(3)]

    before = patched()
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(cut_some, range(4))) == [[6] * 3] * 4
    assert all(now is then for now, then in zip(patched(), before, strict=True))
