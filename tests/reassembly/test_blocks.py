from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pfedhr import reassembly
from pfedhr.models import ModelSpec, build
from pfedhr.reassembly import Block, DecompositionError, coarsen, cut, decompose, describe, run_chain
from pfedhr.reassembly.layer_shapes import extrapolated
from pfedhr.reassembly.symbolic import EVALUATED_BATCHES, TRAINED_BATCHES
from pfedhr.zoo import IMAGES, TEXT, VECTORS

SHAPE = (3, 32, 32)


def network(name: str, shape: tuple[int, ...] = SHAPE) -> nn.Module:
    return build(ModelSpec(name, shape, 10), 0)


# Specs 1.12: the shapes that leave each block of the paper's networks at 3x32x32, and the number of their parameters.
PAPER = {
    "cnn1": (97_384, [(10, 14, 14), (64, 5, 5), (50,), (10,)]),
    "cnn2": (228_712, [(10, 14, 14), (64, 5, 5), (128, 1, 1), (50,), (10,)]),
    "cnn3": (
        2_510_178,
        [(6, 28, 28), (16, 24, 24), (32, 20, 20), (64, 8, 8), (128, 4, 4), (1024,), (128,), (64,), (10,)],
    ),
    "cnn4": (
        5_852_170,
        [(32, 32, 32), (64, 16, 16), (128, 16, 16), (128, 8, 8), (256, 8, 8), (256, 4, 4), (1024,), (512,), (10,)],
    ),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_networks_fall_into_their_layers(name: str) -> None:
    blocks = decompose(network(name), torch.zeros(1, *SHAPE))
    parameters, shapes = PAPER[name]
    assert sum(block.parameters for block in blocks) == parameters
    assert [block.out_shape for block in blocks] == shapes
    assert [block.op for block in blocks] == ["conv" if len(shape) == 3 else "fc" for shape in shapes]


def inputs_for(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randint(256, (5, 12)) if name in TEXT else torch.randn(5, *shape)


@pytest.mark.parametrize("name", [*IMAGES, *VECTORS, *TEXT])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (2, 9, 12)])
def test_blocks_in_order_are_the_network(name: str, shape: tuple[int, ...]) -> None:
    inputs = inputs_for(name, shape)
    model = network(name, tuple(inputs.shape[1:]))
    blocks = decompose(model, inputs[:1])
    model.eval()
    assert torch.equal(run_chain(blocks, inputs), model(inputs))
    model.train()
    torch.manual_seed(1)
    whole = model(inputs)
    torch.manual_seed(1)
    assert torch.equal(run_chain(blocks, inputs), whole)
    names = [name for block in blocks for name in block.names]
    assert sorted(names) == sorted(model.state_dict())
    assert len(names) == len(set(names))


def test_a_residual_block_stays_whole_and_its_mean_goes_with_the_head() -> None:
    blocks = decompose(network("resnet"), torch.zeros(1, *SHAPE))
    assert [block.op for block in blocks] == ["conv", "conv", "conv", "conv", "fc"]
    assert {name.split(".")[0] for name in blocks[2].names} == {"residual2"}
    assert blocks[-1].in_shape == (64, 8, 8)


def test_the_model_is_left_as_it_was() -> None:
    model = network("cnn4").train()
    model[0][1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    decompose(model, torch.randn(2, *SHAPE))
    assert model.training
    assert not model[0][1].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "work",
    [
        lambda images: images.reshape(images.size(0) * 3, 4),
        lambda images: (images.flatten(1), images.size(0), 7),
        lambda images: {"sum": images.sum((1, 2)), "twice": 2 * images.size(0) + 5},
        lambda images: torch.cat([images, images[:1]]).flatten(),
    ],
)
def test_shapes_at_a_large_batch_are_those_of_a_run_there(work: Callable[[Tensor], Any]) -> None:
    """What runs with numbers is run at two small batches alone: the slow way is to run it at the large one, too."""

    def shapes(value: Any) -> Any:
        return tree_map(lambda one: tuple(one.shape) if isinstance(one, Tensor) else one, value)

    for batches in (TRAINED_BATCHES, EVALUATED_BATCHES):
        first, second, large = (work(torch.zeros(batch, 3, 4)) for batch in batches)
        assert shapes(extrapolated(first, second, batches)) == shapes(large)


def test_coarsened_blocks_compute_the_same_in_balanced_parts() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(width, 8), nn.ReLU()) for width in (8, 8, 8, 8, 8)), nn.Linear(8, 3))
    blocks = decompose(model, torch.zeros(1, 8))
    inputs = torch.randn(4, 8)
    for most in range(1, 8):
        fewer = coarsen(blocks, most)
        assert len(fewer) == min(most, 6)
        assert torch.equal(run_chain(fewer, inputs), model(inputs))
        assert [name for block in fewer for name in block.names] == [name for block in blocks for name in block.names]
        # The slow twin: the best of all ways to cut the list of blocks.
        sizes = [block.parameters for block in blocks]
        ways = [
            max(sum(sizes[start:end]) for start, end in pairwise((0, *cuts, 6)))
            for count in range(min(most, 6))
            for cuts in combinations(range(1, 6), count)
        ]
        assert max(block.parameters for block in fewer) == min(ways)
    with pytest.raises(ValueError, match="choose 1 or more"):
        coarsen(blocks, 0)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=7), st.integers(1, 9))
def test_as_many_blocks_as_asked_for_the_largest_as_small_as_can_be(widths: list[int], most: int) -> None:
    blocks = [Block((), "fc", (1,), (width,), nn.Linear(1, width, bias=False)) for width in widths]
    fewer = coarsen(blocks, most)
    count = min(most, len(widths))
    assert len(fewer) == count
    ways = [
        max(sum(widths[start:end]) for start, end in pairwise((0, *cuts, len(widths))))
        for cuts in combinations(range(1, len(widths)), count - 1)
    ]
    assert max(block.parameters for block in fewer) == min(ways)


def test_no_fewer_blocks_than_asked_for_where_one_outweighs_the_others() -> None:
    blocks = decompose(network("cnn4"), torch.zeros(1, *SHAPE))
    assert [len(coarsen(blocks, most)) for most in (11, 9, 8, 3, 1)] == [9, 9, 8, 3, 1]


class OfOneFails(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 4 // (x.size(0) - 1)


def test_what_a_network_raises_on_another_batch_is_told_in_words() -> None:
    with pytest.raises(DecompositionError, match=r"cannot run on a batch of 1: ZeroDivisionError.*Remedies"):
        decompose(OfOneFails(nn.Linear(4, 3)), torch.ones(2, 4))


class Categories(nn.Module):
    """Looks the first feature, the number of a category, up in a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer, self.head = nn.Embedding(5, 3), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, features: Tensor) -> Tensor:
        known = torch.cat([self.table(features[:, 0].long()), features[:, 1:]], 1)
        return self.head(torch.relu(self.layer(known)))


@pytest.mark.parametrize(("options", "count"), [({}, 3), ({"blocks": ["layer", "head"]}, 2), ({"whole": True}, 1)])
@pytest.mark.parametrize("examples", [1, 2, 7])
def test_a_network_that_takes_no_noise_is_checked_on_the_example(options: dict[str, Any], count: int, examples: int) -> None:
    model, inputs = Categories(), torch.rand(7, 4)
    inputs[:, 0] = torch.tensor([4.0, 1, 3, 0, 2, 2, 4])
    with pytest.raises(IndexError):
        model(torch.randn(50, 4))
    blocks = decompose(model, inputs[:examples], **options)
    assert torch.equal(run_chain(blocks, inputs), model(inputs))
    assert len(blocks) == count
    assert len(cut(describe(model, inputs).blueprint)) == 3


def test_a_network_that_runs_on_nothing_is_refused_in_words() -> None:
    with pytest.raises(DecompositionError, match=r"Linear cannot run on a batch of 3: RuntimeError: mat1 and mat2"):
        decompose(nn.Linear(5, 3), torch.ones(2, 4), whole=True)


def test_named_modules_are_the_blocks() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Branching(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2))
    first, second = decompose(model, torch.ones(1, 4), blocks=["1", "3"])
    assert (first.names, second.names) == (("0.weight", "0.bias", "1.0.weight", "1.0.bias"), ("3.weight", "3.bias"))
    with pytest.raises(DecompositionError, match="no module 'head'"):
        decompose(model, torch.ones(1, 4), blocks=["head"])


class Branching(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class TwoOutputs(nn.Sequential):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().forward(x), x


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


class NeedsMore(nn.Sequential):
    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * weight


@pytest.mark.parametrize(
    ("model", "place"),
    [
        (Branching(nn.Linear(4, 3)), "cannot be traced"),
        (TwoOutputs(nn.Linear(4, 3)), "not one tensor"),
        (Unused(), "spare.weight"),
        (NeedsMore(nn.Linear(4, 3)), "'weight'"),
        (nn.Sequential(nn.ReLU(), nn.Flatten()), "no weight"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_words(model: nn.Module, place: str) -> None:
    with pytest.raises(DecompositionError, match=r"Remed(y|ies)") as refusal:
        decompose(model, torch.ones(1, 4))
    assert place in str(refusal.value)
    assert model.training


def test_a_network_that_cannot_be_cut_can_be_taken_whole() -> None:
    model = Branching(nn.Linear(4, 3))
    (block,) = decompose(model, torch.ones(1, 4), whole=True)
    inputs = torch.ones(2, 4)
    assert torch.equal(run_chain([block], inputs), model(inputs))
    assert (block.in_shape, block.out_shape, set(block.names)) == ((4,), (3,), set(model.state_dict()))


def test_public_names_exist() -> None:
    assert all(hasattr(reassembly, name) for name in reassembly.__all__)
