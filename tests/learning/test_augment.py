from __future__ import annotations

import math

import pytest
import torch

from pfedhr.learning import Augmentation
from pfedhr.learning.augment import _turn_hue
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
