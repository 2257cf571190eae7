"""What forward() may not do: branch on the batch size, lose its axis, or leave weights without use."""

from __future__ import annotations

import pytest
import torch
from test_fidelity import INPUTS
from torch import Tensor, nn
from torch.nn import functional

from pfedhr.algorithms.uploads import check_description
from pfedhr.models import ModelSpec
from pfedhr.reassembly import (
    DecompositionError,
    decompose,
    describe,
    rebuild,
)


class Branching(nn.Module):
    def __init__(self, more_than: int, mode: bool | None = None) -> None:
        super().__init__()
        self.more_than, self.mode, self.head = more_than, mode, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.mode in (None, self.training) and x.shape[0] > self.more_than:
            x = x * 2
        return self.head(x)


@pytest.mark.parametrize("mode", [None, True, False])
@pytest.mark.parametrize("more_than", [1, 2, 5, 63])
def test_a_branch_on_the_batch_size_is_refused(more_than: int, mode: bool | None) -> None:
    for take in (describe, decompose):
        with pytest.raises(DecompositionError, match=r"batch size|in training than in evaluation"):
            take(Branching(more_than, mode), INPUTS)


def test_what_holds_at_every_batch_size_is_no_branch() -> None:
    described = describe(model := Branching(0), INPUTS)
    twin = rebuild(described.blueprint, described.weights(model))
    for batch in (1, 2, 64, 100):
        inputs = torch.randn(batch, 6)
        assert torch.equal(twin.eval()(inputs), model.eval()(inputs))


class Squeezing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(1, 4, 6), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv(x[:, None]).squeeze()
        return self.head(hidden.reshape(hidden.shape[0], -1))


def test_a_batch_axis_that_is_lost_in_a_batch_of_one_is_told() -> None:
    with pytest.raises(DecompositionError, match=r"fewer axes in a batch of one: let squeeze\(\) name its axis"):
        describe(Squeezing(), INPUTS)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.more = nn.Linear(6, 3), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.token = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.head(x))


def unused(shape: tuple[int, ...], classes: int) -> nn.Module:
    return Unused()


def test_runs_and_inspection_refuse_unused_weights_alike() -> None:
    reason = r"Unused never uses .*token.*more.*Remedy: remove the unused weight token, layer more from the network"
    with pytest.raises(DecompositionError, match=reason):
        decompose(Unused(), INPUTS)
    with pytest.raises(DecompositionError, match=rf"test_batch_axes:unused.*{reason}"):
        check_description(ModelSpec(f"{__name__}:unused", (6,), 3), INPUTS)
