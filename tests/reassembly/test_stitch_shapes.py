"""What a stitch makes of vectors, sequences of tokens and maps."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from test_stitching import parameters
from torch import nn

from pfedhr.reassembly import (
    StitchError,
    StitchKind,
    stitch,
)
from pfedhr.reassembly.stitching import joinable


def test_a_vector_becomes_a_map_of_one_colour() -> None:
    maps = stitch((50,), (4, 3, 5))(torch.randn(2, 50))
    assert torch.allclose(maps, maps[:, :, :1, :1].expand_as(maps), atol=1e-6)


SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)


@given(SIZES, SIZES, st.sampled_from(["light", "full"]), st.booleans())
@example((197, 6), (8, 7, 7), "light", False)  # a vision transformer, a class token before 14 x 14 patches
@example((3, 32, 32), (50, 8), "light", True)
@example((128, 9), (5,), "light", True)
def test_vectors_sequences_and_maps_of_any_size_are_joined(
    source: tuple[int, ...], target: tuple[int, ...], kind: StitchKind, image: bool
) -> None:
    assert joinable(source, target)
    joined = stitch(source, target, kind, image=image)
    with torch.no_grad():
        for value in joined.parameters():
            value.abs_().add_(0.1)  # no ReLU is closed, so that no gradient is 0 by chance
    for batch in (1, 3):
        inputs = torch.rand(batch, *source, requires_grad=True)
        output = joined(inputs)
        assert output.shape == (batch, *target)
        assert output.min() >= 0
        joined.zero_grad()
        output.sum().backward()
        assert all(value.grad is not None and (value.grad > 0).all() for value in joined.parameters())
        assert inputs.grad is not None


@given(SIZES, st.lists(st.integers(1, 9), max_size=6).map(tuple), st.sampled_from(["light", "full"]), st.booleans())
def test_other_ranks_are_refused_exactly_where_the_rule_says(
    shape: tuple[int, ...], other: tuple[int, ...], kind: StitchKind, image: bool
) -> None:
    for source, target in ((shape, other), (other, shape)):
        assert joinable(source, target) == (1 <= len(other) <= 3)
        if joinable(source, target):
            stitch(source, target, kind, image=image)
        else:
            with pytest.raises(StitchError, match=re.escape(f"{source} to inputs of shape {target}")):
                stitch(source, target, kind, image=image)


def identity(joined: nn.Module) -> nn.Module:
    """Set the one layer of a stitch between equal widths to the identity."""
    with torch.no_grad():
        for value in joined.parameters():
            value.copy_(torch.eye(len(value)).reshape(value.shape) if value.dim() > 1 else torch.zeros_like(value))
    return joined


def test_a_map_is_averaged_where_it_shrinks_and_interpolated_where_it_grows() -> None:
    maps = torch.tensor([[[[8.0, -4.0], [2.0, -2.0]]]])
    # Averaged before the ReLU: the mean of 8 and -4 is 2, of their ReLUs 4.
    assert identity(stitch((1, 2, 2), (1, 1, 1)))(maps).tolist() == [[[[1.0]]]]
    assert identity(stitch((1, 2, 2), (1, 2, 1)))(maps).tolist() == [[[[2.0], [0.0]]]]
    # Interpolated after it: between 8 and 0, a quarter of the way from either, not between 8 and -4.
    assert identity(stitch((1, 2, 2), (1, 2, 4)))(maps).tolist() == [[[[8.0, 6.0, 2.0, 0.0], [2.0, 1.5, 0.5, 0.0]]]]
    assert identity(stitch((1, 2, 2), (1, 4, 2)))(maps).tolist() == [[[[8.0, 0.0], [6.5, 0.0], [3.5, 0.0], [2.0, 0.0]]]]
    # Both at once: the means of the rows, 2 and 0, then between them.
    assert identity(stitch((1, 2, 2), (1, 4, 1)))(maps).tolist() == [[[[2.0], [1.5], [0.5], [0.0]]]]


def test_a_vector_from_a_map_is_the_mean_of_each_channel() -> None:
    maps = torch.tensor([[[[8.0, -4.0], [2.0, -2.0]], [[1.0, 0.0], [0.0, 4.0]]]])
    assert identity(stitch((2, 2, 2), (2,)))(maps).tolist() == [[1.0, 1.25]]


def test_a_vector_from_an_image_reads_means_over_a_grid_of_eight_by_eight() -> None:
    image = torch.arange(16.0)[:, None] * 16 + torch.arange(16.0)
    expected = [16 * (2 * row + 0.5) + (2 * column + 0.5) for row in range(8) for column in range(8)]
    assert identity(stitch((1, 16, 16), (64,), image=True))(image[None, None]).tolist() == [expected]


def test_a_vector_from_tokens_is_their_mean() -> None:
    tokens = torch.randn(3, 5, 4)
    assert torch.allclose(identity(stitch((5, 4), (4,)))(tokens), tokens.mean(1).relu(), atol=1e-6)


def test_a_vector_from_an_input_of_few_tokens_reads_them_all() -> None:
    tokens = torch.randn(3, 5, 4)
    assert torch.equal(identity(stitch((5, 4), (20,), image=True))(tokens), tokens.flatten(1).relu())
    assert parameters(stitch((500, 4), (20,), image=True)) == 64 * 4 * 20 + 20


@pytest.mark.parametrize("classes", [0, 1])
def test_tokens_that_fill_a_square_lie_on_it_row_by_row(classes: int) -> None:
    maps = torch.rand(3, 4, 3, 3)
    tokens = torch.stack([maps[:, :, row, column] for row in range(3) for column in range(3)], dim=1)
    tokens = torch.cat([torch.full((3, classes, 4), 9.0), tokens], dim=1)
    assert torch.equal(identity(stitch((9 + classes, 4), (4, 3, 3)))(tokens), maps)
    wider = identity(stitch((9 + classes, 4), (4, 5, 2)))(tokens)  # from there on as a map
    assert torch.allclose(wider, identity(stitch((4, 3, 3), (4, 5, 2)))(maps), atol=1e-6)


def test_tokens_that_fill_no_square_are_laid_on_the_map_asked_for() -> None:
    tokens = torch.rand(3, 6, 4)
    assert torch.equal(identity(stitch((6, 4), (4, 2, 3)))(tokens), tokens.mT.reshape(3, 4, 2, 3))


def test_tokens_from_a_map_are_its_pixels_row_by_row() -> None:
    maps = torch.rand(3, 4, 2, 3)
    tokens = identity(stitch((4, 2, 3), (6, 4)))(maps)
    assert torch.equal(tokens, torch.stack([maps[:, :, row, column] for row in range(2) for column in range(3)], dim=1))


def test_a_sequence_is_averaged_where_it_shrinks_and_interpolated_where_it_grows() -> None:
    tokens = torch.tensor([[[0.0, 8.0], [4.0, 0.0]]])
    assert torch.equal(identity(stitch((2, 2), (1, 2)))(tokens), torch.tensor([[[2.0, 4.0]]]))
    grown = torch.tensor([[[0.0, 8.0], [1.0, 6.0], [3.0, 2.0], [4.0, 0.0]]])
    assert torch.allclose(identity(stitch((2, 2), (4, 2)))(tokens), grown, atol=1e-6)


def test_a_vector_becomes_tokens_that_are_all_alike() -> None:
    vectors = torch.rand(3, 4)
    assert torch.allclose(identity(stitch((4,), (7, 4)))(vectors), vectors[:, None].expand(3, 7, 4), atol=1e-6)
