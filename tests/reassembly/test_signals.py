"""Signals (channels, length) and sequences (tokens, width): which of them a value is, and what a stitch makes of it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy import Recurrent, convolutional

from pfedhr.reassembly import (
    BlockRef,
    Joint,
    Recipe,
    StitchKind,
    assemble,
    coarsen,
    cut,
    decompose,
    deposit,
    describe,
    layout,
    rebuild_blocks,
    stitch,
)


class Causal(nn.Module):
    """Convolutions by functions that see the past alone, what is too much at the end cut off, around them a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(6, 2, 3)), nn.Parameter(torch.randn(6, 6, 3))
        self.head = nn.Linear(6, 3)

    def forward(self, signals: Tensor) -> Tensor:
        found = functional.relu(functional.conv1d(signals, self.first, padding=2)[:, :, :-2])
        found = found + functional.conv1d(functional.pad(found, (2, 0)), self.second).tanh()
        return self.head(functional.dropout(found, 0.1, self.training)[:, :, -1])


class TextConvolution(nn.Module):
    """Embeddings, over which convolutions go, and a linear layer on every place."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.conv, self.mixed = nn.Embedding(20, 6), nn.Conv1d(6, 8, 3), nn.Linear(8, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        found = self.conv(self.embedding(tokens).permute(0, 2, 1)).relu()
        return self.head(self.mixed(found.mT).relu().amax(1))


class Mixer(nn.Module):
    """Linear layers over the width of tokens, and over their places."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.places, self.head = nn.Linear(5, 6), nn.Linear(7, 7), nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.width(tokens).relu()
        return self.head((tokens + self.places(tokens.transpose(1, 2)).transpose(1, 2)).mean(1))


def normed() -> nn.Module:
    body = nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.GroupNorm(1, 7), nn.Linear(6, 6))
    return nn.Sequential(body, nn.Flatten(), nn.Linear(42, 3))


SIGNAL, TOKENS, WORDS = torch.randn(3, 2, 37), torch.randn(3, 7, 5), torch.randint(20, (3, 9))
# For every block whether it takes a signal, and whether it gives one.
NETWORKS: list[tuple[Callable[[], nn.Module], Tensor, str]] = [
    (lambda: convolutional((2, 37), 4), SIGNAL, "ss ss ss --"),
    (Causal, SIGNAL, "ss ss s-"),
    (lambda: Recurrent(2, 4), SIGNAL, "s- -- --"),  # the transposition, and what takes its outcome, tell
    (TextConvolution, WORDS, "-s s- -- --"),
    (Mixer, TOKENS, "-- -- --"),
    (normed, TOKENS, "ss ss --"),  # by the norm alone, before and behind
]


@pytest.mark.parametrize(("make", "inputs", "expected"), NETWORKS)
def test_the_operations_tell_signals_in_a_live_network_as_in_a_described_one(
    make: Callable[[], nn.Module], inputs: Tensor, expected: str
) -> None:
    model = make()
    description = describe(model, inputs)
    plans = cut(description.blueprint)
    rebuilt = rebuild_blocks(plans, description.weights(model))
    for blocks in (decompose(model, inputs), plans, rebuilt):
        found = ["".join("s" if one else "-" for one in (block.takes_signal, block.gives_signal)) for block in blocks]
        assert " ".join(found) == expected


def test_joined_blocks_take_what_the_first_takes_and_give_what_the_last_gives() -> None:
    first, second = coarsen(decompose(convolutional((2, 37), 4), SIGNAL), 2)
    assert (first.takes_signal, first.gives_signal, second.gives_signal) == (True, True, False)
    assert second.takes_signal == (len(second.in_shape) == 2)


def test_the_input_is_a_signal_if_the_first_layer_of_any_network_says_so() -> None:
    networks = {"conv": convolutional((2, 37), 4), "mlp": nn.Sequential(nn.Flatten(), nn.Linear(74, 9), nn.Linear(9, 4))}
    bank = deposit(networks, SIGNAL)
    first = next(iter(layout(Recipe((BlockRef("conv", 2), BlockRef("conv", 4))), bank).values()))
    assert first == Joint("light", (2, 37), (8, 37), image=True, from_signal=True, to_signal=True)
    assert not deposit({"mlp": networks["mlp"]}, SIGNAL).signal


OTHERS = [((5,), False), ((7, 5), False), ((9, 5), False), ((5, 3, 4), False), ((5, 7), True), ((4, 12), True)]


@pytest.mark.parametrize("kind", ["light", "full"])
@pytest.mark.parametrize("layers", [1, 2])
def test_signals_are_joined_to_everything(kind: StitchKind, layers: int) -> None:
    for (source, from_signal), (target, to_signal) in itertools.product(OTHERS, OTHERS):
        for image in (False, True):
            joint = Joint(kind, source, target, image, layers, from_signal, to_signal)
            with torch.no_grad():
                outputs = joint.build()(torch.randn(2, *source))
            assert outputs.shape == (2, *target)
            assert outputs.min() >= 0


def weighted_like(joined: nn.Module, twin: nn.Module) -> nn.Module:
    """Give a stitch the weights of its twin, whose layers are the same in the same order."""
    values = [value for one in twin.modules() if isinstance(one, nn.Conv2d | nn.Linear) for value in one.parameters()]
    with torch.no_grad():
        for value, other in zip(joined.parameters(), values, strict=True):
            value.copy_(other.view_as(value))
    return joined


@pytest.mark.parametrize("target", [(6, 7), (6, 20), (6, 12)])
@pytest.mark.parametrize("layers", [1, 2])
def test_from_signal_to_signal_is_from_map_to_map_of_one_row(target: tuple[int, int], layers: int) -> None:
    signals = torch.randn(3, 4, 12)
    maps = stitch((4, 1, 12), (6, 1, target[1]), layers=layers)
    joined = weighted_like(stitch((4, 12), target, layers=layers, from_signal=True, to_signal=True), maps)
    assert torch.equal(joined(signals), maps(signals[:, :, None])[:, :, 0])


def test_every_place_of_a_signal_is_a_token() -> None:
    signals = torch.randn(3, 4, 9)  # as many places as a square has pixels, which does not make it one
    sequence = stitch((9, 4), (6, 5))
    to_tokens = weighted_like(stitch((4, 9), (6, 5), from_signal=True), sequence)
    # The mean over places and a layer on each of them may be done in either order.
    torch.testing.assert_close(to_tokens(signals), sequence(signals.mT))
    from_tokens = weighted_like(stitch((9, 4), (5, 6), to_signal=True), sequence)
    torch.testing.assert_close(from_tokens(signals.mT), sequence(signals.mT).mT)


def test_a_vector_from_a_signal_reads_its_channels_and_of_an_input_its_places_too() -> None:
    signals = torch.randn(3, 4, 9)
    joined = stitch((4, 9), (5,), from_signal=True)
    (linear,) = (one for one in joined.modules() if isinstance(one, nn.Linear))
    assert torch.allclose(joined(signals), linear(signals.mean(2)).relu(), atol=1e-6)
    joined = stitch((4, 9), (5,), image=True, from_signal=True)
    (linear,) = (one for one in joined.modules() if isinstance(one, nn.Linear))
    assert torch.equal(joined(signals), linear(signals.flatten(1)).relu())
    (linear,) = (one for one in stitch((4, 500), (5,), image=True, from_signal=True).modules() if isinstance(one, nn.Linear))
    assert linear.in_features == 4 * 64


def test_a_vector_becomes_a_signal_that_does_not_change() -> None:
    signals = stitch((5,), (4, 9), to_signal=True)(torch.randn(3, 5))
    assert torch.allclose(signals, signals[:, :, :1].expand(3, 4, 9), atol=1e-6)


def test_a_signal_network_of_two_travels_with_its_stitches() -> None:
    model = convolutional((2, 37), 4)
    bank = deposit({"a": model, "b": copy.deepcopy(model)}, SIGNAL)
    candidate = assemble(Recipe((BlockRef("a", 1), BlockRef("b", 2), BlockRef("a", 3), BlockRef("b", 4))), bank).eval()
    sizes = [tuple(value.shape) for name, value in candidate.named_parameters() if name.startswith("stitch")]
    assert sizes == [(8, 8, 1, 1), (8,), (12, 12, 1, 1), (12,), (16, 16), (16,)]
    assert candidate(SIGNAL).shape == (3, 4)


class Between(nn.Module):
    """An operation between two linear layers that say nothing about axes."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.between = nn.Linear(5, 6), nn.Linear(6, 3), between

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.between(self.first(inputs)).relu().mean(1))


@pytest.mark.parametrize(
    ("between", "signal"),
    [
        (lambda x: functional.conv_transpose1d(x, torch.ones(7, 7, 3), padding=1), True),
        (lambda x: torch.conv1d(x, torch.ones(7, 7, 3), padding=1), True),
        (lambda x: functional.max_pool1d(x, 3, stride=1, padding=1), True),
        (lambda x: functional.avg_pool1d(x, 3, stride=1, padding=1), True),
        (lambda x: functional.adaptive_avg_pool1d(x, 6), True),
        (lambda x: functional.adaptive_max_pool1d(x, 6), True),
        (lambda x: functional.interpolate(x, scale_factor=2.0)[:, :, :6], True),
        (lambda x: functional.instance_norm(x), True),
        (lambda x: functional.group_norm(x, 7), True),
        (lambda x: functional.batch_norm(x, torch.zeros(7), torch.ones(7)), True),
        (lambda x: functional.dropout1d(x, 0.1, training=False), True),
        (lambda x: functional.layer_norm(x, (6,)), False),
        (lambda x: functional.max_pool1d(x.transpose(1, 2), 3, stride=1, padding=1).transpose(1, 2), False),
        (lambda x: functional.max_pool1d(x.mT, 3, stride=1, padding=1).permute(0, 2, 1), False),
    ],
)
def test_functions_tell_as_layers_do(between: Callable[[Tensor], Tensor], signal: bool) -> None:
    first, *_, second = decompose(Between(between), TOKENS)
    assert (first.takes_signal, first.gives_signal, second.takes_signal) == (signal,) * 3
