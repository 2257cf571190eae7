from __future__ import annotations

import math

import pytest
import torch

from pfedhr.learning import Augmentation
from pfedhr.learning.augment import _colour, _turn_hue
from pfedhr.seeding import generator


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mirror", [False, True])
def test_a_view_keeps_shape_and_range_and_is_named_by_its_generator(channels: int, mirror: bool) -> None:
    images = torch.rand(16, channels, 12, 10, generator=generator(0)) * 2 - 1
    augment = Augmentation(mirror)
    view = augment(images, generator(1))
    assert view.shape == images.shape
    assert view.min() >= -1 - 1e-5
    assert view.max() <= 1 + 1e-5
    assert torch.equal(view, augment(images, generator(1)))
    assert not torch.equal(view, augment(images, generator(2)))
    assert all(not torch.equal(one, image) for one, image in zip(view, images, strict=True))


def test_only_where_a_mirror_image_keeps_its_class_are_images_flipped() -> None:
    left = torch.full((400, 1, 8, 8), -1.0)
    left[..., :4] = 1

    def flipped(mirror: bool) -> float:
        views = Augmentation(mirror)(left, generator(0))
        return (views[..., 4:].mean((1, 2, 3)) > views[..., :4].mean((1, 2, 3))).float().mean().item()

    assert flipped(False) == 0
    assert flipped(True) == pytest.approx(0.5, abs=0.1)  # 4 deviations of 400 tosses


def test_crops_lie_anywhere_in_the_image_and_have_four_fifths_of_its_area_to_all_of_it() -> None:
    """Images whose brightness is the place along one side, from -1 to 1: views of them tell what has become of a place."""
    places = (torch.arange(16.0) * 2 + 1) / 16 - 1
    scales = list[torch.Tensor]()
    for images in (places[:, None].expand(16, 16), places[None, :].expand(16, 16)):
        views = Augmentation(True)(images.expand(1000, 1, 16, 16), generator(0))[:, 0]
        before, behind = (views[:, 7, 7], views[:, 8, 8])
        scales.append(((behind - before) * 8).abs())
        offset = (before + behind) / 2 / (1 - scales[-1]).clamp(min=1e-3)
        assert -1 - 1e-3 <= offset.min() < -0.98
        assert 0.98 < offset.max() <= 1 + 1e-3
    torch.testing.assert_close(*scales)
    area = scales[0].square()
    assert 0.8 - 1e-4 <= area.min() < 0.802
    assert 0.998 < area.max() <= 1 + 1e-4


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 128), (128, 32), (31, 96)])
def test_a_rotation_turns_lines_of_any_direction_by_one_angle(height: int, width: int) -> None:
    """Brightness that grows by one a pixel, downwards or to the right, shows at the centre how a view has turned it."""
    downwards, rightwards = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    angles: list[float] = []
    for seed in range(40):
        growth: list[float] = []
        for ramp in (downwards, rightwards):
            view = Augmentation(False)(ramp[None, None], generator(seed))[0, 0]
            here = view[height // 2, width // 2]
            growth += [(view[height // 2 + 1, width // 2] - here).item(), (view[height // 2, width // 2 + 1] - here).item()]
        down_down, down_right, right_down, right_right = growth
        assert down_down == pytest.approx(right_right, abs=1e-4)  # both by the scale of the crop and the angle's cosine
        assert down_right == pytest.approx(-right_down, abs=1e-4)  # and by its sine
        assert 0.8 - 1e-4 <= down_down**2 + down_right**2 <= 1 + 1e-4
        angles.append(math.degrees(math.atan2(down_right, down_down)))
    assert -15 < min(angles) < -10 < 10 < max(angles) < 15


def test_a_third_of_a_turn_of_hue_takes_red_to_green_and_leaves_grey() -> None:
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    turned = _turn_hue(red, torch.tensor([2 * math.pi / 3]))
    assert torch.allclose(turned.flatten(), torch.tensor([0.0, 1, 0]), atol=1e-6)
    grey = torch.full((1, 3, 2, 2), 0.4)
    assert torch.allclose(_turn_hue(grey, torch.tensor([1.0])), grey, atol=1e-6)


def test_about_a_fifth_of_coloured_views_are_grey() -> None:
    images = torch.rand(500, 3, 4, 4, generator=generator(0)) * 2 - 1
    views = Augmentation(True)(images, generator(1))
    grey = ((views - views.mean(1, keepdim=True)).abs().amax((1, 2, 3)) < 1e-5).float().mean().item()
    assert grey == pytest.approx(0.2, abs=0.07)  # 4 deviations of 500 draws


def test_four_of_five_views_are_jittered_by_two_fifths_and_a_tenth_of_a_turn_of_hue() -> None:
    """Of two greys and a colour: hue and saturation leave grey what it is, and no draw touches what another one tells."""
    dark, light, colour = torch.tensor([0.35] * 3), torch.tensor([0.45] * 3), torch.tensor([0.45, 0.4, 0.35])
    images = torch.stack([dark, light, colour], 1)[None, :, None] * 2 - 1
    views = (_colour(images.expand(4000, 3, 1, 3), generator(0))[:, :, 0] + 1) / 2
    tint, tints = colour - colour.mean(), views[..., 2] - views[..., 2].mean(1, keepdim=True)
    middle = (0.35 + 0.45 + 0.299 * 0.45 + 0.587 * 0.4 + 0.114 * 0.35) / 3
    spread = (views[:, 0, 1] - views[:, 0, 0]) / 0.1  # brightness times contrast
    brightness = (views[:, 0, 0] - spread * (0.35 - middle)) / middle
    contrast, saturation = spread / brightness, tints.norm(dim=1) / tint.norm() / spread
    across = torch.linalg.cross(torch.ones(3) / 3**0.5, tint)
    hue = torch.rad2deg(torch.atan2(tints @ across, tints @ tint))
    coloured = saturation > 1e-3
    same = (views - (images[0, :, 0] + 1) / 2).abs().amax((1, 2)) < 1e-5
    assert (same[coloured].float().mean()).item() == pytest.approx(0.2, abs=0.03)  # 4 deviations of 3200 draws
    jittered = coloured & ~same
    for factor, low, high in ((brightness, 0.6, 1.4), (contrast, 0.6, 1.4), (saturation, 0.6, 1.4), (hue, -36, 36)):
        drawn, edge = factor[jittered], (high - low) / 100
        assert low - edge / 50 <= drawn.min() < low + edge
        assert high - edge < drawn.max() <= high + edge / 50
