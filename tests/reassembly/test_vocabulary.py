"""Every layer of the vocabulary travels and keeps within memory; what is not in it is refused in words that help."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bounds import memory_within, seconds_within
from torch import Tensor, nn

from pfedhr.parcel import ParcelError
from pfedhr.reassembly import DescriptionError, cut, decompose, describe, rebuild, register
from pfedhr.reassembly.rebuilding import skeleton
from pfedhr.reassembly.vocabulary import LAYERS, registered

SERIES, IMAGES, VOLUMES = (3, 4, 6), (3, 4, 6, 6), (3, 4, 6, 6, 6)


class Framed(nn.Module):
    """`layer` between a convolution that keeps the shape and a linear layer on what is left of each channel."""

    def __init__(self, layer: nn.Module, axes: int) -> None:
        super().__init__()
        self.conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](4, 4, 3, padding=1)
        self.layer, self.head = layer, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.conv(x)).flatten(2).mean(2))


class Steps(nn.Module):
    """A cell run along a series, from nothing."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for at in range(x.shape[1]):
            state = self.cell(x[:, at], state)
        return self.head(state[0] if isinstance(self.cell, nn.LSTMCell) else state)


class Decoding(nn.Module):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(4, 2, 8, batch_first=True, **settings)
        self.decoder, self.start, self.head = nn.TransformerDecoder(layer, 2), nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.start(x)
        return self.head(self.decoder(memory[:, :1], memory)[:, 0])


CASES: list[tuple[nn.Module, tuple[int, ...]]] = [
    *((Framed(layer, 1), SERIES) for layer in (nn.LPPool1d(2, 2), nn.CircularPad1d(1), nn.ConstantPad1d(1, 0.5))),
    *((Framed(layer, 1), SERIES) for layer in (nn.ReflectionPad1d(1), nn.ReplicationPad1d(1))),
    *((Framed(layer, 2), IMAGES) for layer in (nn.Softmax2d(), nn.Softmin(1), nn.Threshold(0.1, 0.2), nn.Tanhshrink())),
    *((Framed(layer, 2), IMAGES) for layer in (nn.Hardshrink(0.3), nn.Softshrink(0.3), nn.RReLU(0.1, 0.4))),
    *((Framed(layer, 2), IMAGES) for layer in (nn.FeatureAlphaDropout(0.3), nn.CircularPad2d((1, 0, 2, 1)))),
    *((Framed(layer, 2), IMAGES) for layer in (nn.UpsamplingBilinear2d(scale_factor=2), nn.UpsamplingNearest2d((9, 7)))),
    *((Framed(layer, 3), VOLUMES) for layer in (nn.InstanceNorm3d(4, affine=True), nn.LPPool3d(2, 2), nn.ZeroPad3d(1))),
    *((Framed(layer, 3), VOLUMES) for layer in (nn.AdaptiveMaxPool3d(2), nn.CircularPad3d(1), nn.ConstantPad3d(1, 0.5))),
    *((Framed(layer, 3), VOLUMES) for layer in (nn.ReflectionPad3d(1), nn.ReplicationPad3d(1))),
    *((Steps(cell(6, 5, bias=bias)), SERIES) for cell in (nn.RNNCell, nn.LSTMCell, nn.GRUCell) for bias in (True, False)),
    (Steps(nn.RNNCell(6, 5, nonlinearity="relu")), SERIES),
    (Decoding(), SERIES),
    (Decoding(norm_first=True, bias=False, activation="gelu"), SERIES),
]


@pytest.mark.parametrize(("model", "shape"), CASES, ids=lambda case: type(getattr(case, "layer", case)).__name__)
def test_a_layer_of_the_vocabulary_travels(model: nn.Module, shape: tuple[int, ...]) -> None:
    inputs = torch.randn(shape)
    described = describe(model, inputs)
    twin = rebuild(described.blueprint, described.weights(model))
    assert {name for name, _ in json.loads(described.blueprint.graph)["layers"]} <= LAYERS.keys()
    for training in (True, False):
        results: list[Tensor] = []
        for network in (model, twin):
            torch.manual_seed(1)
            results.append(network.train(training)(inputs))
        assert torch.equal(*results)
    assert [plan.op for plan in cut(described.blueprint)] == [block.op for block in decompose(model, inputs)]


def hostile(layer: str, shape: tuple[int, ...], count: int, **settings: Any) -> Any:
    """Return the blueprint of one layer of hostile settings that takes its input `count` times."""
    values = [["layer", 0, {"tuple": [{"value": 0}] * count}, {}]]
    tree = {"input": ["float32", shape], "layers": [[layer, settings]], "tensors": [], "ties": [], "values": values}
    return pytest.param(json.dumps(tree | {"output": {"value": 1}}), id=layer)


HUGE, PADS = 10**9, ("Circular", "Reflection", "Replication", "Zero")
TOO_LARGE = [
    *(hostile(f"{kind}Pad{n}d", (4, *[6] * n), 1, padding=HUGE) for kind in PADS for n in (1, 3)),
    *(hostile(f"ConstantPad{n}d", (4, *[6] * n), 1, padding=HUGE, value=1.0) for n in (1, 3)),
    *(hostile(f"LPPool{n}d", (4, *[6] * n), 1, norm_type=2, kernel_size=HUGE) for n in (1, 3)),
    *(hostile(f"Upsampling{kind}2d", (4, 6, 6), 1, scale_factor=float(HUGE)) for kind in ("Bilinear", "Nearest")),
    *(hostile(f"{kind}Cell", (6,), 1, input_size=6, hidden_size=HUGE) for kind in ("RNN", "LSTM", "GRU")),
    hostile("AdaptiveMaxPool3d", (4, 6, 6, 6), 1, output_size=HUGE),
    hostile("InstanceNorm3d", (4, 6, 6, 6), 1, num_features=4 * HUGE, affine=True),
    hostile("TransformerDecoderLayer", (6, 4), 2, d_model=4, nhead=2, dim_feedforward=HUGE, batch_first=True),
]


@pytest.mark.parametrize("text", TOO_LARGE)
def test_a_layer_of_hostile_size_is_refused_before_it_fills_memory_or_time(text: str) -> None:
    with memory_within(2**28), seconds_within(3), pytest.raises(ParcelError):
        skeleton(text)


class Applied(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.function = nn.Linear(6, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.function(x))


class Forgetful(nn.Module):
    """Keeps its parameter under another name."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.width = size

    def forward(self, x: Tensor) -> Tensor:
        return x * self.width


class Numerical(nn.Module):
    """Its constructor looks at numbers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.width = size, int(torch.ones(size).sum())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.width


HELP = r"Remedies: compute the same by what is in the vocabulary of blueprints .* or inside a layer of its own"
REFUSED = [
    (lambda x: x.erfinv(), rf"the method 'erfinv' of a tensor .* {HELP}"),
    (lambda x: torch.sinc(x), rf"the function .*sinc.* {HELP}"),
    (lambda x: x.mH, rf"the attribute 'mH' of a tensor .* {HELP}"),
    (lambda x: x.to(torch.complex64).abs(), rf"type torch\.complex64 .*: those are float32, .* {HELP}"),
    (lambda x: torch.meshgrid(x[0, 0], indexing="ij")[0] + x, rf"the function .*meshgrid.* {HELP}"),
    (lambda x: torch.einsum(f"abc{' ' * 60}->abc", x), rf"the text 'abc .* {HELP}"),
    (lambda x: x.contiguous(memory_format=torch.contiguous_format), rf"an argument of type memory_format .* {HELP}"),
    (
        nn.FractionalMaxPool2d(1, 6),
        r"torch\.nn\.modules\.pooling\.FractionalMaxPool2d is not in the vocabulary of blueprints\. Remedies",
    ),
    (
        nn.TransformerEncoderLayer(6, 2, 8, activation=torch.tanh, batch_first=True),
        r"activation .*tanh.* Remedy: give 'relu' or 'gelu' by name",
    ),
]


@pytest.mark.parametrize(("function", "reason"), REFUSED)
def test_a_refusal_names_what_no_blueprint_holds_and_what_helps(function: Callable[[Tensor], Tensor], reason: str) -> None:
    with pytest.raises(DescriptionError, match=reason):
        describe(Applied(function), torch.randn(3, 6, 6))


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (Forgetful, r"a Forgetful does not keep its constructor's parameter 'size'.* Remedy: .* set self\.size"),
        (Numerical, r"no other Numerical can be made from its settings: .* Remedy: .* run on torch's meta device"),
    ],
)
def test_a_registered_layer_that_cannot_be_made_again_is_refused(
    cls: type[nn.Module], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pfedhr.reassembly.vocabulary.registered", dict(registered))
    register(cls)
    with pytest.raises(DescriptionError, match=reason):
        describe(Applied(cls(6)), torch.randn(3, 6, 6))
