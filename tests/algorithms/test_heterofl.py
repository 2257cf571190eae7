"""Known answers of HeteroFL."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from toy import equal, make_cohort

from pfedhr.algorithm import SettingError, Setup
from pfedhr.algorithms.averaging import weighted_mean
from pfedhr.algorithms.heterofl import HeteroFL
from pfedhr.algorithms.slices import Slice, divide, is_slice, joined, rates_of, scaled
from pfedhr.in_process import Cohort
from pfedhr.models import ModelSpec, build
from pfedhr.seeding import generator
from pfedhr.zoo.cnn import _cnn4, _Maps

QUARTER = HeteroFL("cnn4-quarter")


ALL = (0, 1, 2, 3)


def perceptron(*widths: int):
    def factory(shape: tuple[int, ...], classes: int) -> nn.Module:
        first, second = widths
        layers = nn.Linear(64, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, classes)
        return nn.Sequential(nn.Flatten(), *layers)

    return factory


wide, narrow, crossed = perceptron(16, 8), perceptron(4, 2), perceptron(4, 12)


class Transposed(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.movedim(1, -1).flatten(1)


def spatial(channels: int):
    def factory(shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), Transposed(), nn.Linear(64 * channels, classes))

    return factory


channels_last_wide, channels_last = spatial(4), spatial(2)


def normed(width: int):
    def factory(shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.LayerNorm(width), nn.Linear(width, classes))

    return factory


normed_wide, normed_narrow = normed(8), normed(4)


def tiny(shape: tuple[int, ...], classes: int) -> nn.Module:
    """CNN4 at a sixteenth: a width of 64 times 0.0625 is 4."""
    maps = _Maps(shape)
    maps.add(2, 3, 1, "norm", nn.ReLU())
    maps.add(4, 3, 1, nn.ReLU(), "pool")
    return maps.finish((), classes, ())


def check(method: HeteroFL, cohort: Cohort) -> None:
    method.check(Setup(cohort.networks, cohort.federation.public, cohort.training, 4))


def named(factory: str) -> HeteroFL:
    return HeteroFL(f"{__name__}:{factory}")


def test_equal_rates_and_all_classes_are_the_plain_mean() -> None:
    old, first, second, third = ({"w": torch.randn(4, 3), "b": torch.randn(4), "n": torch.tensor(at)} for at in range(4))
    sent = [Slice(weights, ALL) for weights in (first, second, third)]
    mean = weighted_mean([one.weights for one in sent], [1, 1, 1])
    new = joined(old, sent, ("w", "b"))
    assert all(torch.allclose(new[name], mean[name]) for name in ("w", "b"))
    assert new["n"].item() == mean["n"].item() == 3


def test_a_whole_and_a_half_share_what_they_overlap_in() -> None:
    whole, half = torch.arange(16.0).view(4, 4), -torch.ones(2, 2)
    new = joined({"w": torch.zeros(4, 4)}, [Slice({"w": whole}, ALL), Slice({"w": half}, ALL)], ())["w"]
    assert torch.equal(new[:2, :2], (whole[:2, :2] - 1) / 2)
    rest = torch.ones(4, 4, dtype=torch.bool)
    rest[:2, :2] = False
    assert torch.equal(new[rest], whole[rest])


def test_what_nobody_sent_stays_bit_for_bit() -> None:
    old = {"w": torch.randn(4, 4), "head": torch.randn(4, 2), "bias": torch.randn(4), "scale": torch.tensor(0.1)}
    first = Slice({"w": torch.ones(2, 1), "head": torch.ones(4, 1), "bias": torch.ones(4), "scale": torch.tensor(2.0)}, (0, 2))
    second = Slice({name: 3 * value for name, value in first.weights.items()}, (2,))
    kept = {name: value.clone() for name, value in old.items()}
    new = joined(old, [first, second], ("head", "bias"))
    assert equal(old, kept)
    assert torch.equal(new["w"][:2, :1], torch.full((2, 1), 2.0))
    assert torch.equal(new["w"][2:], old["w"][2:])
    assert torch.equal(new["w"][:, 1:], old["w"][:, 1:])
    assert new["head"][:, 0].tolist() == [1.0, old["head"][1, 0].item(), 2.0, old["head"][3, 0].item()]
    assert torch.equal(new["head"][:, 1], old["head"][:, 1])
    assert new["bias"].tolist() == [1.0, old["bias"][1].item(), 2.0, old["bias"][3].item()]
    assert new["scale"].item() == 4.0


def test_joining_is_what_it_is_scalar_by_scalar() -> None:
    rng = generator(0, "joining")
    old = {"w": torch.randn(5, 4, generator=rng), "head": torch.randn(4, 5, generator=rng)}
    sent = []
    for rows, columns, classes in ((5, 4, (0, 1)), (3, 2, (1, 3)), (4, 1, (3,))):
        weights = {"w": torch.randn(rows, columns, generator=rng), "head": torch.randn(4, rows, generator=rng)}
        sent.append(Slice(weights, classes))
    new = joined(old, sent, ("head",))
    for name, value in old.items():
        for row in range(value.shape[0]):
            for column in range(value.shape[1]):
                held = [
                    part.weights[name][row, column].item()
                    for part in sent
                    if row < part.weights[name].shape[0]
                    and column < part.weights[name].shape[1]
                    and (name != "head" or row in part.classes)
                ]
                expected = sum(held) / len(held) if held else value[row, column].item()
                assert new[name][row, column].item() == pytest.approx(expected, abs=1e-6)


def test_widths_are_rounded_up() -> None:
    shape = build(ModelSpec("cnn4-eighth", (1, 8, 8), 4), 0).state_dict()["conv2.0.weight"].shape
    assert shape == (8, 4, 3, 3)  # an eighth of 64 and of 32
    whole, part = (build(ModelSpec(name, (1, 8, 8), 4), 0) for name in (f"{__name__}:tiny_whole", f"{__name__}:tiny"))
    assert part.state_dict()["conv2.0.weight"].shape[0] == 4  # 0.0625 * 64
    assert is_slice(part, whole, torch.randn(3, 1, 8, 8))
    third, whole = _cnn4((1, 8, 8), 4, 3), _cnn4((1, 8, 8), 4, 1)  # 3 divides none of the widths
    sizes = [third.state_dict()[f"{name}.weight"].shape[0] for name in ("conv1.0", "conv2.0", "conv3.0", "fc1.0", "fc3")]
    assert sizes == [11, 22, 43, 342, 4]  # 32, 64, 128 and 1024 by 3
    assert is_slice(third.eval(), whole.eval(), torch.randn(3, 1, 8, 8))


def tiny_whole(shape: tuple[int, ...], classes: int) -> nn.Module:
    maps = _Maps(shape)
    maps.add(32, 3, 1, "norm", nn.ReLU())
    maps.add(64, 3, 1, nn.ReLU(), "pool")
    return maps.finish((), classes, ())


def test_dividing_weights_is_dividing_outputs() -> None:
    model = build(ModelSpec("cnn4-quarter", (1, 8, 8), 4), 0).eval()
    rates = {"conv2.0": 0.25, "fc1.0": 0.5}
    inputs = torch.randn(3, 1, 8, 8)
    plain = model(inputs)
    with scaled(model, rates):
        expected = model(inputs)
    assert torch.equal(model(inputs), plain)  # outside of the block nothing divides
    divide(model, rates)
    assert torch.allclose(model(inputs), expected, rtol=1e-5)
    assert not torch.allclose(plain, expected, rtol=1e-2)


def test_rates_are_the_shares_of_outputs_and_the_last_layer_is_whole() -> None:
    eighth, quarter = (ModelSpec(name, (1, 8, 8), 4) for name in ("cnn4-eighth", "cnn4-quarter"))
    rates = rates_of(eighth, quarter)
    assert rates == dict.fromkeys([*(f"conv{at}.0" for at in range(1, 7)), "fc1.0", "fc2.0"], 0.5)
    assert rates_of(quarter, quarter) == {}


def test_a_weight_that_two_layers_share_is_divided_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    inputs = torch.randn(2, 3)
    with scaled(model, {"0": 0.5, "1": 0.5}):
        expected = model(inputs)
    divide(model, {"0": 0.5, "1": 0.5})
    assert torch.allclose(model(inputs), expected)


@pytest.mark.parametrize(
    ("method", "network"),
    [
        (HeteroFL(), "cnn1"),
        (QUARTER, "cnn4"),  # wider than the whole
        (named("wide"), f"{__name__}:crossed"),
        (named("channels_last_wide"), f"{__name__}:channels_last"),  # every shape fits, and places do not
        (named("normed_wide"), f"{__name__}:normed_narrow"),  # a layer norm sees how wide its input is
    ],
)
def test_networks_that_are_no_slices_are_refused(method: HeteroFL, network: str) -> None:
    with pytest.raises(SettingError, match=r"heterofl needs slices of algorithm.global_network.*none.*clients.models"):
        check(method, make_cohort(network))


def test_networks_that_are_slices_are_taken() -> None:
    check(HeteroFL(), make_cohort("cnn4", "cnn4-half", "cnn4-quarter", "cnn4-eighth"))
    check(named("wide"), make_cohort(f"{__name__}:narrow"))


def test_an_adapter_an_unknown_global_network_and_one_without_a_head_are_refused() -> None:
    with pytest.raises(SettingError, match=r"heterofl.*algorithm.global_network.*clients.features = 0.*clients.models"):
        check(QUARTER, make_cohort("cnn4-eighth", features=16))
    with pytest.raises(SettingError, match=r"algorithm.global_network of heterofl: unknown model 'cnn5': did you mean"):
        check(HeteroFL("cnn5"), make_cohort("cnn4"))
    with pytest.raises(SettingError, match=r"global_network = .*headless' of heterofl.*no linear layer of 4 outputs"):
        check(HeteroFL("toy:headless"), make_cohort("toy:headless"))


class Turned(nn.Module):
    """Two linear layers of as many outputs as there are classes, the last one the first by name."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.out, self.body = nn.Linear(classes, classes), nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.body(images.flatten(1)).relu())


def test_a_global_network_whose_last_linear_layer_is_not_its_output_is_refused() -> None:
    with pytest.raises(SettingError, match=r"Turned' of heterofl.*last linear layer, 'body', is not what it returns"):
        check(named("Turned"), make_cohort(f"{__name__}:Turned"))
