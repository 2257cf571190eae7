"""Networks that are written in other ways: what forward() may do, and what it leaves as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pfedhr.reassembly import decompose, run_chain


class Functional(nn.Module):
    """Weights used by functions, a view by size, an argument with a default, and a module with a weight of its own."""

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((6, 1, 1), 2.0))

        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            return maps * self.weight

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(6, 1, 3, 3))
        self.scale = self.Scale()
        self.head = nn.Linear(6 * 6 * 6, 4)

    def forward(
        self, images: torch.Tensor, mask: torch.Tensor | None = None, gain: float = 2.0, deep: bool = True
    ) -> torch.Tensor:
        if mask is not None:
            images = images * mask
        if deep:
            images = images * gain
        maps = torch.relu(self.scale(nn.functional.conv2d(images, self.kernel)))
        return self.head(maps.view(maps.size(0), -1))


def test_functional_weights_defaults_and_views() -> None:
    model = Functional()
    inputs = torch.randn(4, 1, 8, 8)
    assert torch.equal(run_chain(decompose(model, inputs), inputs), model(inputs))
    first, *_, last = decompose(Functional(), torch.zeros(1, 1, 8, 8))
    assert (first.op, first.names) == ("conv", ("kernel", "scale.weight"))
    assert (last.op, last.in_shape, last.names) == ("fc", (216,), ("head.weight", "head.bias"))


class Products(nn.Module):
    """Three layers whose matrices are parameters, each applied by another function."""

    def __init__(self, product: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.product = product
        self.first, self.second, self.head = (nn.Parameter(torch.randn(6, width)) for width in (6, 6, 3))

    def forward(self, features: Tensor) -> Tensor:
        features = torch.relu(self.product(features, self.first))
        return self.product(torch.relu(self.product(features, self.second)), self.head)


@pytest.mark.parametrize(
    "product",
    [
        torch.mm,
        torch.matmul,
        lambda features, matrix: features @ matrix,
        lambda features, matrix: features.mm(matrix),
        lambda features, matrix: features.matmul(matrix),
        lambda features, matrix: torch.addmm(torch.zeros(matrix.shape[1]), features, matrix),
    ],
)
def test_whatever_multiplies_by_a_matrix_is_a_layer(product: Callable[[Tensor, Tensor], Tensor]) -> None:
    model, inputs = Products(product), torch.randn(4, 6)
    blocks = decompose(model, inputs)
    assert [(block.op, block.names) for block in blocks] == [("fc", ("first",)), ("fc", ("second",)), ("fc", ("head",))]
    assert torch.equal(run_chain(blocks, inputs), model(inputs))


class Tied(nn.Module):
    """The first and the third of four layers are one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.first(self.second(self.first(x)))))


def test_blocks_that_share_a_weight_are_one() -> None:
    blocks = decompose(Tied(), torch.zeros(1, 5))
    assert [len(block.names) for block in blocks] == [4, 2]


class Reordering(nn.Module):
    """Flattens a map with its columns in another order: on an example of zeros, that is a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 2, 3), nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.conv(images)
        return self.head(torch.cat([maps[..., ::2].flatten(1), maps[..., 1::2].flatten(1)], 1))


def test_what_only_looks_like_a_flatten_on_the_example_is_kept() -> None:
    model = Reordering()
    blocks = decompose(model, torch.zeros(1, 1, 4, 4))
    inputs = torch.randn(4, 1, 4, 4)
    assert torch.equal(run_chain(blocks, inputs), model(inputs))


class FunctionalDropout(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, self.training))


def test_functional_dropout_follows_the_mode_of_its_block() -> None:
    model = FunctionalDropout(nn.Linear(40, 3)).train()
    (block,) = decompose(model, torch.ones(1, 40))
    inputs = torch.randn(5, 40)
    for training in (True, False):
        torch.manual_seed(1)
        whole = model.train(training)(inputs)
        torch.manual_seed(1)
        assert torch.equal(block.module.train(training)(inputs), whole)
    assert not torch.equal(model.train()(inputs), model.eval()(inputs))


class KeepsItsBatchSize(nn.Module):
    """Asks for the batch size once, at the start, and uses it again at the end, with a branch on a shape in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, width = x.shape
        hidden = torch.relu(self.first(x))
        if width % 2 == 0 and hidden.shape[1] > width:
            hidden = self.second(hidden) + torch.ones(batch, 1)
        return self.head(hidden.view(batch, 2, 4)).mean(1)


def test_forward_may_branch_on_shapes_and_keep_its_batch_size() -> None:
    model = KeepsItsBatchSize()
    blocks = decompose(model, torch.zeros(1, 6))
    inputs = torch.randn(7, 6)
    assert [block.names[0] for block in blocks] == ["first.weight", "second.weight", "head.weight"]
    assert torch.equal(run_chain(blocks, inputs), model(inputs))


class Shifting(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.sub_(0.5))


def test_a_network_may_change_its_inputs_in_place() -> None:
    model, inputs = Shifting(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)), torch.randn(5, 4)
    before = inputs.clone()
    for options in ({}, {"whole": True}):
        blocks = decompose(model, inputs, **options)
        assert torch.equal(inputs, before)
        assert torch.equal(run_chain(blocks, inputs.clone()), model(inputs.clone()))


class MadeInForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(nn.ReLU()(self.first(features)))


def test_a_layer_made_in_forward_is_followed() -> None:
    assert [len(block.names) for block in decompose(MadeInForward(), torch.zeros(1, 6))] == [2, 2]


class TwoNames(nn.Module):
    """Registers a layer twice, and uses it under one name."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.again = self.first
        self.head = nn.Linear(6, 2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.again(features)))


def test_a_layer_of_two_names_is_in_one_block() -> None:
    blocks = decompose(TwoNames(), torch.zeros(1, 6))
    assert [block.names for block in blocks] == [("first.weight", "first.bias"), ("head.weight", "head.bias")]
