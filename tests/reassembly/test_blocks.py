from __future__ import annotations

import builtins
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from pfedhr.reassembly import Block, DecompositionError, coarsen, cut, decompose, describe, rebuild, run_chain
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


def test_the_model_is_left_as_it_was() -> None:
    model = network("cnn4").train()
    model[0][1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    decompose(model, torch.randn(2, *SHAPE))
    assert model.training
    assert not model[0][1].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


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
