"""Cuts stand only where the first axis is the batch: elsewhere a block would mix what belongs to different inputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pfedhr.inference import inference
from pfedhr.reassembly import (
    DecompositionError,
    assemble,
    block_similarity,
    decompose,
    deposit,
    describe,
    group,
    profile,
    propose,
    rebuild,
    run_chain,
)
from pfedhr.seeding import generator

SIGNALS = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(0))
"""(5, channels, length)."""


class Recurrent(nn.Module):
    def __init__(self, forward: Callable[[Recurrent, Tensor], Tensor], batch_first: bool) -> None:
        super().__init__()
        self.before = nn.Conv1d(3, 6, 3, padding=1)
        self.recurrent = nn.GRU(6, 4, batch_first=batch_first)
        self.between, self.head = nn.Linear(4, 7), nn.Linear(7, 2)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, self.before(x))


def last_state(net: Recurrent, x: Tensor) -> Tensor:
    return net.head(net.between(net.recurrent(x.transpose(1, 2))[1]).relu()[-1])


def time_first(net: Recurrent, x: Tensor) -> Tensor:
    return net.head(net.between(net.recurrent(x.permute(2, 0, 1))[0]).relu()[-1])


def time_by_time(net: Recurrent, x: Tensor) -> Tensor:
    states = net.recurrent(x.transpose(1, 2))[0]
    hidden = net.between(states.reshape(-1, 4)).relu()
    return net.head(hidden.reshape(len(x), 8, 7).mean(1))


def plain(net: Recurrent, x: Tensor) -> Tensor:
    return net.head(net.between(net.recurrent(x.transpose(1, 2))[0]).relu().mean(1))


with torch.random.fork_rng():
    torch.manual_seed(0)
    NETWORKS = {
        "the last state": (Recurrent(last_state, True), 3),
        "time first": (Recurrent(time_first, False), 3),
        "a reshape of batch and time": (Recurrent(time_by_time, True), 4),
        "batch first": (Recurrent(plain, True), 4),
    }
    """Networks, and the number of their blocks."""


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_give_each_input_what_they_give_it_alone(name: str) -> None:
    model, count = NETWORKS[name]
    blocks = decompose(model, SIGNALS)
    assert len(blocks) == count
    with inference(model):
        assert torch.equal(run_chain(blocks, SIGNALS), model(SIGNALS))
        hidden = SIGNALS
        for block in blocks:
            given = run_chain([block], hidden)
            assert tuple(given.shape) == (5, *block.out_shape)
            alone = torch.cat([run_chain([block], one[None]) for one in hidden])
            assert torch.allclose(given, alone, atol=1e-6)
            hidden = given


def test_candidates_give_each_input_what_they_give_it_alone() -> None:
    bank = deposit({name: model for name, (model, _) in NETWORKS.items()}, SIGNALS)
    groups = group(block_similarity(profile(bank, SIGNALS)), 3)
    recipes = propose(groups, bank, limit=12, rng=generator(0, "candidates"))
    assert len(recipes) > 1
    for recipe in recipes:
        candidate = assemble(recipe, bank).eval()
        with inference(candidate):
            alone = torch.cat([candidate(one[None]) for one in SIGNALS])
            assert torch.allclose(candidate(SIGNALS), alone, atol=1e-5)


def test_a_network_that_returns_another_first_axis_is_refused_in_words() -> None:
    def states(net: Recurrent, x: Tensor) -> Tensor:
        return net.head(net.between(net.recurrent(x.permute(2, 0, 1))[0]))

    with pytest.raises(
        DecompositionError, match=r"gives \(8, 2, 2\) for a batch of 2: let forward\(\) return the batch as the first"
    ):
        decompose(Recurrent(states, False), SIGNALS)


class Positioned(nn.Module):
    """Adds one row to each input, and has 32 of them: forward() raises at the largest batch that it is followed at."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.between, self.head = nn.Linear(6, 4), nn.Linear(4, 5), nn.Linear(5, 2)
        self.rows = nn.Parameter(torch.randn(32, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self.body(x) + self.rows[: len(x)]).relu())


class Squeezed(nn.Module):
    """Loses the axis of a batch of one."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv1d(3, 4, 8), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).squeeze())


@pytest.mark.parametrize(("model", "example"), [(Positioned(), torch.randn(3, 6)), (Squeezed(), SIGNALS)], ids=["64", "1"])
def test_what_cannot_run_at_some_size_is_cut_by_the_others(model: nn.Module, example: Tensor) -> None:
    blocks = decompose(model, example)
    assert len(blocks) == len([layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv1d)])
    with inference(model):
        assert torch.equal(run_chain(blocks, example), model(example))


def test_a_batch_of_one_that_training_statistics_cannot_take_is_told() -> None:
    class Normed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](nn.functional.batch_norm(self[0](x), None, None, training=True))

    with pytest.raises(DecompositionError, match="cannot run on a batch of 1: ValueError: Expected more than 1 value"):
        decompose(Normed(nn.Linear(6, 4), nn.Linear(4, 2)), torch.randn(3, 6))


class Pairs(nn.Module):
    """Looks at every pair of inputs of a batch: (batch, batch, features) crosses, which is no shape that a block could have."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.between, self.head = nn.Linear(6, 4), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x).relu()
        return self.head(self.between(hidden[:, None] - hidden[None]).relu().mean(1))


def test_no_block_has_the_batch_in_its_shapes() -> None:
    blocks = decompose(Pairs(), torch.randn(3, 6))
    assert [(block.in_shape, block.out_shape) for block in blocks] == [((6,), (4,)), ((4,), (5,)), ((5,), (2,))]


class Repeated(nn.Module):
    """Repeats a weight, of as many rows as the first batch that it is followed at has inputs, once an input."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 2)
        self.token = nn.Parameter(torch.randn(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x) + self.token.repeat(len(x), 1).reshape(len(x), 8))


def test_the_rows_of_a_weight_are_no_batch() -> None:
    model = Repeated()
    described = describe(model, torch.randn(3, 6))
    twin = rebuild(described.blueprint, described.weights(model))
    for batch in (1, 2, 5):
        inputs = torch.randn(batch, 6)
        assert torch.equal(twin.eval()(inputs), model.eval()(inputs))
