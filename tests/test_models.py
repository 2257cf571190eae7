from __future__ import annotations

import itertools
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pfedhr.models import ModelSpec, build, check_network
from pfedhr.zoo import IMAGES, TEXT, VECTORS, ModelError


@pytest.mark.parametrize(
    ("name", "parameters"), [("cnn1", 97_384), ("cnn2", 228_712), ("cnn3", 2_510_178), ("cnn4", 5_852_170)]
)
def test_the_papers_networks_have_the_papers_sizes(name: str, parameters: int) -> None:
    model = build(ModelSpec(name, (3, 32, 32), 10), 0)
    assert sum(value.numel() for value in model.parameters()) == parameters


@pytest.mark.parametrize(("name", "divisor"), [("cnn4-half", 2), ("cnn4-quarter", 4), ("cnn4-eighth", 8)])
def test_narrower_networks_have_every_hidden_width_divided(name: str, divisor: int) -> None:
    maps = [3, *(width // divisor for width in (32, 64, 128, 128, 256, 256))]
    lines = [16 * maps[-1], 1024 // divisor, 512 // divisor, 10]
    norms = 2 * (maps[1] + maps[3] + maps[5])
    expected = norms + sum(9 * entering * leaving + leaving for entering, leaving in pairwise(maps))
    expected += sum(entering * leaving + leaving for entering, leaving in pairwise(lines))
    model = build(ModelSpec(name, (3, 32, 32), 10), 0)
    assert sum(value.numel() for value in model.parameters()) == expected
    assert expected == {2: 1_465_354, 4: 367_498, 8: 92_458}[divisor]


@pytest.mark.parametrize("name", [*IMAGES, *VECTORS])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (1, 28, 28), (3, 32, 32), (4, 64, 40)])
@pytest.mark.parametrize("classes", [2, 7])
def test_every_network_takes_any_image_and_any_number_of_classes(name: str, shape: tuple[int, ...], classes: int) -> None:
    check_network(ModelSpec(name, shape, classes), torch.zeros(2, *shape))


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("tokens", [1, 12])
def test_networks_for_text_take_sentences_of_any_length(name: str, tokens: int) -> None:
    check_network(ModelSpec(name, (tokens,), 3), torch.full((2, tokens), 255))


@pytest.mark.parametrize("name", VECTORS)
def test_perceptrons_take_vectors(name: str) -> None:
    check_network(ModelSpec(name, (64,), 10), torch.zeros(2, 64))


@pytest.mark.parametrize(
    ("name", "shape"), [("vit", (64,)), ("mobilenet", (1, 9)), ("cnn1", (9,)), ("lstm", (3, 8, 8)), ("bag", ())]
)
def test_networks_say_what_they_are_made_for(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"takes (images|the numbers of words) .*not inputs of shape"):
        build(ModelSpec(name, shape, 3), 0)


def test_initial_weights_have_a_name() -> None:
    spec = ModelSpec("cnn1", (1, 8, 8), 3)
    first, again, other = (build(spec, 0, *path).state_dict() for path in (("a",), ("a",), ("b",)))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def two_inputs(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Bilinear(3, 3, classes)


def wrong_width(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, classes + 1))


def failing(shape: tuple[int, ...], classes: int) -> nn.Module:
    raise KeyError("no such size")


def no_module(shape: tuple[int, ...], classes: int) -> int:
    return 3


class Flat(nn.Module):
    """A perceptron of one layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.line = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(x.flatten(1))


def double(shape: tuple[int, ...], classes: int) -> nn.Module:
    class Double(Flat):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.double())

    return Double(classes).double()


def brain(shape: tuple[int, ...], classes: int) -> nn.Module:
    class Brain(Flat):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).bfloat16()

    return Brain(classes)


def two_in_training(shape: tuple[int, ...], classes: int) -> nn.Module:
    class Googled(Flat):
        def forward(self, x: torch.Tensor) -> Any:
            logits = super().forward(x)
            return (logits, logits) if self.training else logits

    return Googled(classes)


def lazy(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


def noting(shape: tuple[int, ...], classes: int) -> nn.Module:
    class Noting(Flat):
        def get_extra_state(self) -> Any:
            return {"version": 1}

        def set_extra_state(self, state: Any) -> None:
            pass

    return Noting(classes)


loaded_once = Flat(3)


constant = torch.zeros(3)


def loaded(shape: tuple[int, ...], classes: int) -> nn.Module:
    return loaded_once


def buffered(shape: tuple[int, ...], classes: int) -> nn.Module:
    model = Flat(classes)
    model.register_buffer("centre", constant, persistent=False)
    return model


def drawn_elsewhere(shape: tuple[int, ...], classes: int) -> nn.Module:
    model = Flat(classes)
    model.line.weight.data = torch.from_numpy(np.random.randn(classes, 4)).float()  # noqa: NPY002
    return model


widths = itertools.count(3)


def of_any_width(shape: tuple[int, ...], classes: int) -> nn.Module:
    width = next(widths)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, width), nn.Linear(width, classes))


layers = itertools.count(1)


def of_any_depth(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), *(nn.Linear(4, 4) for _ in range(next(layers))), nn.Linear(4, classes))


not_callable = 3


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("cnn5", ["'cnn5'", "did you mean 'cnn", "package.module:factory"]),
        ("no_such_package:make", ["'no_such_package:make'", "no module 'no_such_package'"]),
        (":make", ["':make'", "not of the form"]),
        (".models:make", ["'.models:make'", "not of the form"]),
        (f"{__name__}:", ["not of the form"]),
        (f"{__name__}:absent", ["has no function 'absent'"]),
        (f"{__name__}:not_callable", ["'not_callable' in", "is of type int; name a function"]),
        (f"{__name__}:failing", ["failed when called", "no such size"]),
        (f"{__name__}:no_module", ["returned a int"]),
        (f"{__name__}:two_inputs", ["failed on a batch of two"]),
        (f"{__name__}:wrong_width", ["(2, 4)", "(2, 3)", "one logit a class"]),
        (f"{__name__}:double", ["torch.float64", "logits.float()", "clients.models"]),
        (f"{__name__}:brain", ["torch.bfloat16", "logits.float()", "clients.models"]),
        (f"{__name__}:two_in_training", ["gave tuple for a batch of two in training"]),
        (f"{__name__}:lazy", ["'1.weight'", "lazy"]),
        (f"{__name__}:noting", ["'_extra_state' of type dict", "buffer"]),
        (f"{__name__}:loaded", ["one 'line.weight'", "copy.deepcopy"]),
        (f"{__name__}:buffered", ["one 'centre'", "copy.deepcopy"]),
        (f"{__name__}:drawn_elsewhere", ["'line.weight'", "numpy"]),
        (f"{__name__}:of_any_width", ["'1.bias'", "one size"]),
        (f"{__name__}:of_any_depth", ["not the same", "'2.bias'"]),
    ],
)
def test_a_network_that_will_not_do_is_refused_by_name(factory: str, words: list[str]) -> None:
    with pytest.raises(ModelError) as refusal:
        check_network(ModelSpec(factory, (1, 2, 2), 3), torch.zeros(2, 1, 2, 2))
    assert all(word in str(refusal.value) for word in words), refusal.value


@pytest.mark.parametrize("name", ["cnn1", "resnet"])
def test_images_are_needed_where_networks_convolve(name: str) -> None:
    with pytest.raises(ModelError, match="takes images"):
        build(ModelSpec(name, (12,), 3), 0)
