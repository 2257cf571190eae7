from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pfedhr.inference import predict
from pfedhr.models import ModelSpec, build
from pfedhr.reassembly import (
    BlockBank,
    BlockRef,
    Recipe,
    assemble,
    deposit,
    describe,
    layout,
    match,
    rebuild,
    stitch,
)
from pfedhr.reassembly import stitching as stitching_module
from pfedhr.seeding import seeded

IMAGE = (3, 32, 32)


PAPER = ("cnn1", "cnn2", "cnn3", "cnn4")


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    return {name: build(ModelSpec(name, IMAGE, 10), 0) for name in PAPER}


@pytest.fixture(scope="module")
def bank(models: dict[str, nn.Module]) -> BlockBank:
    return deposit(models, torch.zeros(1, *IMAGE))


def parameters(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


# Specs 1.6: the parameters of a stitch, weights and biases; None is the image.
TABLE = [
    (None, ("cnn1", 2), 6_023_080, 40),
    (None, ("cnn4", 2), 100_696_064, 128),
    (("cnn1", 1), ("cnn1", 2), 3_843_560, 110),
    (("cnn1", 1), ("cnn4", 2), 64_258_048, 352),
    (("cnn1", 2), ("cnn4", 3), 26_230_784, 4_160),
    (("cnn3", 1), ("cnn3", 2), 22_132_320, 42),
    (("cnn4", 1), ("cnn4", 2), 1_073_774_592, 1_056),
    (("cnn4", 3), ("cnn4", 4), 1_073_774_592, 16_512),
    (("cnn4", 4), ("cnn4", 5), 67_117_056, 16_512),
    (("cnn4", 6), ("cnn1", 3), 6_555_200, 411_200),
    (("cnn3", 5), ("cnn4", 7), 8_392_704, 528_384),
]


@pytest.mark.parametrize(("source", "target", "full", "light"), TABLE)
def test_the_table_of_stitch_sizes(
    source: tuple[str, int] | None,
    target: tuple[str, int],
    full: int,
    light: int,
    bank: BlockBank,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leaving = bank[BlockRef(*source)].out_shape if source else IMAGE
    entering = bank[BlockRef(*target)].in_shape
    monkeypatch.setattr(stitching_module, "FULL_LIMIT", 2_000_000_000)
    with torch.device("meta"):  # counted, not allocated
        assert parameters(stitch(leaving, entering, "light", image=source is None)) == light
        assert parameters(stitch(leaving, entering, "full")) == full


def test_a_first_block_reads_the_image_and_a_neighbour_what_it_is_given_without_a_stitch(bank: BlockBank) -> None:
    """Specs 1.6: the rows of the table with 0 parameters; before cnn4.1 a stitch would have nine million."""
    assert parameters(stitch(IMAGE, bank[BlockRef("cnn4", 1)].in_shape, "full")) == 9_440_256
    pairs = {("cnn4", 1): 2, ("cnn1", 1): 2, ("cnn3", 1): 2, ("cnn4", 3): 4, ("cnn4", 4): 5}
    for (name, first), second in pairs.items():
        for kind in ("light", "full"):
            names = list(layout(Recipe((BlockRef(name, first), BlockRef(name, second))), bank, kind))
            assert names[-3:] == ["block1", "block2", "head"]
            assert len(names) == (3 if first == 1 else 4)


def test_a_full_stitch_too_large_gives_way_to_a_light_one(bank: BlockBank) -> None:
    assert parameters(stitch((32, 32, 32), (32, 32, 32), "full")) == 1_056
    assert parameters(stitch((10, 4, 4), (8, 3, 3), "full")) == 160 * 72 + 72
    # cnn1.1 to cnn4.2 would take 64 million weights, cnn4.2 to cnn1.4 takes 819,250: each stitch tells which it is.
    model = assemble(Recipe((BlockRef("cnn1", 1), BlockRef("cnn4", 2), BlockRef("cnn1", 4))), bank, "full")
    assert [name for name, _ in model.named_children()] == ["block1", "stitch2_light", "block2", "stitch3_full", "block3"]
    assert parameters(model.stitch3_full) == (64 * 16 * 16 + 1) * 50
    assert model(torch.randn(2, *IMAGE)).shape == (2, 10)


SHAPES = [(3, 32, 32), (10, 14, 14), (64, 5, 5), (128, 1, 1), (4, 7, 3), (2, 3, 9), (50,), (1600,)]


@pytest.mark.parametrize("kind", ["light", "full"])
@pytest.mark.parametrize("image", [False, True])
def test_a_stitch_gives_what_the_next_block_takes(kind: str, image: bool) -> None:
    for source in SHAPES:
        for target in SHAPES:
            joined = stitch(source, target, kind, image=image)
            output = joined(torch.randn(2, *source))
            assert output.shape == (2, *target), (source, target)
            assert output.min() >= 0  # every stitch ends in a ReLU


LAYERED = [
    # Shapes, then the parameters of the first layer and of each that follows: by hand, weights and biases.
    ((10, 14, 14), (64, 5, 5), 10 * 64 + 64, 64 * 64 + 64),
    ((64, 5, 5), (10, 14, 14), 64 * 10 + 10, 10 * 10 + 10),
    ((64, 5, 5), (50,), 64 * 50 + 50, 50 * 50 + 50),
    ((50,), (4, 3, 5), 50 * 4 + 4, 4 * 4 + 4),
    ((50,), (7, 6), 50 * 6 + 6, 6 * 6 + 6),
    ((9, 6), (4, 5, 5), 6 * 4 + 4, 4 * 4 + 4),
    ((6, 6), (4, 5, 5), 6 * 4 + 4, 4 * 4 + 4),
    ((9, 6), (7, 8), 6 * 8 + 8, 8 * 8 + 8),
    ((50,), (20,), 50 * 20 + 20, 20 * 20 + 20),
]


@pytest.mark.parametrize(("source", "target", "first", "further"), LAYERED)
def test_further_layers_keep_the_width_that_the_first_gives(
    source: tuple[int, ...], target: tuple[int, ...], first: int, further: int
) -> None:
    inputs = torch.randn(3, *source)
    dense = math.prod(source) * math.prod(target) + math.prod(target)
    for layers in (1, 2, 3):
        light, full = stitch(source, target, layers=layers), stitch(source, target, "full", layers=layers)
        assert parameters(light) == first + (layers - 1) * further
        assert parameters(full) == dense + (layers - 1) * further
        for joined in (light, full):
            assert sum(isinstance(part, nn.ReLU) for part in joined.modules()) == layers
            output = joined(inputs)
            assert output.shape == (3, *target)
            assert output.min() >= 0
        assert torch.equal(predict(rebuilt(light, inputs), inputs), predict(light, inputs))


def rebuilt(joined: nn.Module, inputs: torch.Tensor) -> nn.Module:
    """The stitch as it arrives elsewhere."""
    description = describe(joined, inputs)
    return rebuild(description.blueprint, description.weights(joined))


def test_one_layer_is_what_a_stitch_is_without_the_word(bank: BlockBank) -> None:
    recipe = Recipe((BlockRef("cnn1", 1), BlockRef("cnn4", 2), BlockRef("cnn1", 4)))
    with seeded(0):
        plain = assemble(recipe, bank)
    with seeded(0):
        one = assemble(recipe, bank, layers=1)
    with seeded(0):
        three = assemble(recipe, bank, layers=3)
    assert plain.state_dict().keys() == one.state_dict().keys()
    assert all(torch.equal(value, one.state_dict()[name]) for name, value in plain.state_dict().items())
    assert [name for name, _ in three.named_children()] == [name for name, _ in plain.named_children()]
    # cnn1.1 to cnn4.2 is 10 to 32 channels, cnn4.2 to cnn1.4 is 64 channels to 50 values.
    more = parameters(three) - parameters(plain)
    assert more == 2 * (32 * 32 + 32) + 2 * (50 * 50 + 50)


@pytest.mark.parametrize("name", [*PAPER, "mlp", "resnet"])
def test_the_own_blocks_in_order_are_the_own_model(name: str) -> None:
    model = build(ModelSpec(name, IMAGE, 10), 0)
    bank = deposit({"own": model}, torch.zeros(1, *IMAGE))
    rebuilt = assemble(Recipe(bank.chain("own")), bank)
    assert not any(part.startswith(("stitch", "head")) for part, _ in rebuilt.named_children())
    images = torch.randn(6, *IMAGE)
    assert torch.equal(predict(rebuilt, images), predict(model, images))
    assert match({"own": model}, [rebuilt], images).scores.item() == pytest.approx(1, abs=1e-5)


def test_stitches_stand_only_between_blocks_that_were_not_neighbours(bank: BlockBank) -> None:
    # A candidate like that of the paper's figure 7.
    chain = (("cnn1", 2), ("cnn2", 3), ("cnn3", 4), ("cnn3", 5), ("cnn2", 5))
    model = assemble(Recipe(tuple(BlockRef(*ref) for ref in chain)), bank)
    names = [name for name, _ in model.named_children()]
    assert names == [
        "stitch1_light", "block1", "stitch2_light", "block2", "stitch3_light", "block3", "block4", "stitch5_light", "block5",
    ]  # fmt: skip
    sizes = {name: parameters(part) for name, part in model.named_children()}
    assert sum(size for name, size in sizes.items() if name.startswith("block")) == 477_694
    # image to 10x14x14, 64x5x5 to 64x5x5, 128x1x1 to 32x20x20, 128x4x4 to 50
    assert sizes["stitch1_light"] == 40
    assert sizes["stitch2_light"] == 64 * 64 + 64
    assert sizes["stitch3_light"] == 128 * 32 + 32
    assert sizes["stitch5_light"] == 128 * 50 + 50
    assert sum(size for name, size in sizes.items() if name.startswith("stitch")) == 14_778
    assert model(torch.randn(2, *IMAGE)).shape == (2, 10)
    # With a stitch between the neighbours cnn3.4 and cnn3.5 too, as the specs count them.
    leaving = [IMAGE, *(bank[BlockRef(*ref)].out_shape for ref in chain)]
    shapes = [(given, bank[BlockRef(*ref)].in_shape) for given, ref in zip(leaving, chain, strict=False)]
    with torch.device("meta"):
        assert sum(parameters(stitch(source, target, "light")) for source, target in shapes) == 18_938
        assert sum(parameters(stitch(source, target, "full")) for source, target in shapes) == 27_119_642


def test_a_last_block_that_gives_no_logits_gets_a_head(bank: BlockBank) -> None:
    model = assemble(Recipe((BlockRef("cnn1", 1), BlockRef("cnn1", 2), BlockRef("cnn1", 3))), bank)
    assert parameters(model.head) == 50 * 10 + 10
    assert model(torch.randn(2, *IMAGE)).shape == (2, 10)


def test_candidates_and_models_share_no_tensors(models: dict[str, nn.Module], bank: BlockBank) -> None:
    recipe = Recipe(bank.chain("cnn1"))
    first, second = assemble(recipe, bank), assemble(recipe, bank)
    before = [value.clone() for value in models["cnn1"].parameters()]
    with torch.no_grad():
        for value in first.parameters():
            value.add_(1)
    assert all(torch.equal(value, kept) for value, kept in zip(models["cnn1"].parameters(), before, strict=True))
    assert all(torch.equal(value, kept) for value, kept in zip(second.parameters(), before, strict=True))


def test_what_is_frozen_in_a_network_is_frozen_in_a_candidate() -> None:
    model = build(ModelSpec("cnn1", (1, 12, 12), 3), 0)
    next(model.parameters()).requires_grad_(False)
    bank = deposit({"own": model}, torch.zeros(1, 1, 12, 12))
    candidate = assemble(Recipe((*bank.chain("own")[:1], bank.chain("own")[-1])), bank)
    assert [value.requires_grad for value in candidate.parameters()][:2] == [False, True]
    assert all(value.requires_grad for name, value in candidate.named_parameters() if name.startswith("stitch"))
