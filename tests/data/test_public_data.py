"""Public data: of the clients' own set or another, labelled or not, made like theirs."""

from __future__ import annotations

import sys

import pytest
import torch
from test_federation import Own, by_client, drawn, numbers

from pfedhr.data import (
    DataError,
    DataOptions,
    Dataset,
    Examples,
    PublicOptions,
    Unlabelled,
    build_federation,
    load,
)
from pfedhr.data.images import like


def test_public_and_private_follow_the_mix_of_labels(own_set: Own) -> None:
    federation = build_federation(
        DataOptions(own_set(4000), partition="dirichlet", alpha=0.3, test_share=0.25), PublicOptions(), 5, seed=1
    )
    assert isinstance(federation.public, Examples)
    assert federation.public.labels.bincount().tolist() == [100] * 4
    for data in federation.clients.values():
        train, test = data.train.labels.bincount(minlength=4), data.test.labels.bincount(minlength=4)
        assert len(data.test) == round(0.25 * int((train + test).sum()))
        assert ((train + test) * 0.25 - test).abs().max() <= 1


def test_public_draw_does_not_depend_on_how_the_rest_is_shared(own_set: Own) -> None:
    name = own_set(600)
    options = (DataOptions(name, partition="iid"), DataOptions(name, partition="dirichlet", test_share=0.5))
    first, second = (build_federation(option, PublicOptions(), 4, seed=1) for option in options)
    assert numbers(first.public) == numbers(second.public)


def test_public_data_of_a_set_that_holds_the_clients_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pfedhr.data.federation.load", lambda name, *rest: load("fashion-mini"))
    for own, other in (("fashion-mini", "fashion-mnist"), ("fashion-mnist", "fashion-mini")):
        with pytest.raises(DataError, match=r"fashion-mini is a part of fashion-mnist.*choose another set"):
            build_federation(DataOptions(own), PublicOptions(name=other), 12, seed=0)


def test_unlabelled_public_examples_have_no_labels(own_set: Own) -> None:
    options = DataOptions(own_set(600))
    seen = build_federation(options, PublicOptions(), 4, seed=1).public
    hidden = build_federation(options, PublicOptions(labelled=False), 4, seed=1).public
    assert type(seen) is Examples
    assert type(hidden) is Unlabelled
    assert torch.equal(seen.inputs, hidden.inputs)


def test_naming_the_same_set_takes_public_examples_out_of_the_pool(own_set: Own) -> None:
    name = own_set(600)
    implied, named = (build_federation(DataOptions(name), PublicOptions(name=public), 4, 1) for public in ("", name))
    assert by_client(implied) == by_client(named)
    assert numbers(implied.public) == numbers(named.public)


def test_only_images_are_made_alike(own_set: Own) -> None:
    other = PublicOptions(name="fashion-mini", labelled=False)
    with pytest.raises(DataError, match=r'only uint8 images of 1 or 3 channels.*public\.name = ""'):
        build_federation(DataOptions(own_set(400)), other, 4, seed=0)


def image_set(name: str, shape: tuple[int, ...], classes: int = 10, count: int = 200) -> Dataset:
    images = torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    return Dataset(name, Examples(images, torch.arange(count) % classes), classes, mirror=True)


@pytest.fixture
def small_and_large(monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    module = sys.modules[__name__]
    sets = {"small": image_set("small", (1, 8, 8)), "large": image_set("large", (3, 12, 12), count=60)}
    for name, dataset in sets.items():
        monkeypatch.setattr(module, name, lambda directory, dataset=dataset: dataset, raising=False)
    return f"{__name__}:small", f"{__name__}:large"


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("labelled", [False, True])
def test_public_images_of_another_set_are_made_alike(small_and_large: tuple[str, str], swap: bool, labelled: bool) -> None:
    main, other = reversed(small_and_large) if swap else small_and_large
    share = 0.2
    options = DataOptions(main, partition="iid")
    federation = build_federation(options, PublicOptions(share, other, labelled), 3, seed=0)
    pool = len(load(main).examples)
    assert sum(len(data.train) + len(data.test) for data in federation.clients.values()) == pool - round(share * pool)
    assert len(federation.public) == round(share * pool)
    at_home = build_federation(options, PublicOptions(share), 3, seed=0)
    for client, data in federation.clients.items():  # comparisons of public data compare nothing else
        assert torch.equal(data.train.inputs, at_home.clients[client].train.inputs)
    assert tuple(federation.public.inputs.shape[1:]) == federation.shape
    assert federation.public.inputs.dtype == torch.uint8
    assert isinstance(federation.public, Examples if labelled else Unlabelled)


def test_too_small_a_public_set_is_refused(small_and_large: tuple[str, str]) -> None:
    main, other = small_and_large
    with pytest.raises(DataError, match=r"public\.share = 0\.5: give at most 0\.3"):
        build_federation(DataOptions(main), PublicOptions(0.5, other), 3, seed=0)


def test_public_labels_of_other_classes_are_refused(own_set: Own) -> None:
    main, other = own_set(400, name="main"), own_set(400, classes=5, name="other")
    with pytest.raises(DataError, match=r"has 5 classes and .* has 4, .*set public\.labelled = false"):
        build_federation(DataOptions(main), PublicOptions(name=other), 4, seed=0)


def test_images_are_made_alike() -> None:
    """Known answers: constant images stay constant, red is 0.299 of white, halving averages smooth pairs."""
    grey = torch.full((1, 1, 4, 4), 77, dtype=torch.uint8)
    assert torch.equal(like(grey, (3, 9, 5)), torch.full((1, 3, 9, 5), 77, dtype=torch.uint8))
    colours = torch.zeros(3, 3, 2, 2, dtype=torch.uint8)
    for channel in range(3):
        colours[channel, channel] = 255
    assert like(colours, (1, 2, 2))[:, 0, 0, 0].tolist() == [76, 150, 29]  # 255 x 0.299, 0.587, 0.114
    noise = torch.randint(0, 256, (2, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(like(noise, (3, 6, 6)), noise)
    checks = (torch.arange(64 * 64).reshape(1, 1, 64, 64) // 64 + torch.arange(64)) % 2 * 255
    # Without antialiasing, every other pixel of a checkerboard could come out all black or all white.
    small = like(checks.to(torch.uint8), (1, 16, 16))[:, :, 2:-2, 2:-2].float()
    assert 120 < small.min() <= small.max() < 135


@pytest.mark.parametrize("share", [1.0, -0.1])
def test_public_share_out_of_range(share: float) -> None:
    with pytest.raises(DataError, match=rf"public\.share = {share}: give 0 for none, or a number above 0"):
        PublicOptions(share)


def test_there_may_be_no_public_data(own_set: Own) -> None:
    for labelled in (True, False):
        federation = build_federation(DataOptions(own_set(400), partition="iid"), PublicOptions(0, labelled=labelled), 4, 0)
        assert len(federation.public) == 0
        assert federation.public.inputs.shape[1:] == federation.shape
        assert sum(len(data.train) + len(data.test) for data in federation.clients.values()) == 400


def test_whether_public_images_may_be_mirrored_is_told_by_their_own_set() -> None:
    data = DataOptions(name=f"{__name__}:mirrorable", partition="iid")
    assert build_federation(data, PublicOptions(), 2, 0).mirror
    assert not build_federation(data, PublicOptions(name="test_federation:digits"), 2, 0).mirror


def mirrorable(directory: str) -> Dataset:
    return drawn("mirrorable", mirror=True)


def test_public_examples_of_another_set_may_be_of_any_kind_that_the_clients_are(own_set: Own) -> None:
    public = PublicOptions(name=own_set(60, name="other"))
    federation = build_federation(DataOptions(own_set(400)), public, 3, 0)
    assert federation.public.inputs.shape == (40, 1)
    assert federation.public.inputs.max() < 60
