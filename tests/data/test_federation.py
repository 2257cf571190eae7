"""Building federations: who gets which example, and which options are refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pfedhr.data import (
    ClientData,
    DataError,
    DataOptions,
    Dataset,
    Examples,
    Federation,
    PublicOptions,
    Unlabelled,
    build_federation,
    load,
)
from pfedhr.data.images import like

Own = Callable[..., str]


def numbers(part: Examples | Unlabelled) -> list[int]:
    """The numbers of the examples of `own_set`, whose inputs are their numbers."""
    return part.inputs[:, 0].long().tolist()


def by_client(federation: Federation) -> dict[str, tuple[list[int], list[int]]]:
    return {client: (numbers(data.train), numbers(data.test)) for client, data in federation.clients.items()}


@pytest.mark.parametrize("partition", ["iid", "classes", "dirichlet"])
@pytest.mark.parametrize("examples", [0, 403])
def test_no_example_is_in_two_places(own_set: Own, partition: Any, examples: int) -> None:
    options = DataOptions(own_set(1000), partition=partition, examples=examples)
    federation = build_federation(options, PublicOptions(), 6, seed=3)
    private = [number for parts in by_client(federation).values() for part in parts for number in part]
    public = numbers(federation.public)
    everything = private + public
    assert len(set(everything)) == len(everything)
    assert set(everything) <= set(range(1000))
    size = examples or 1000
    assert len(public) == round(0.1 * size)
    if partition != "classes":
        assert len(everything) == size
    for data in federation.clients.values():
        for part in (data.train, data.test):
            assert (part.inputs[:, 0].long() % 4).tolist() == part.labels.tolist()


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


def test_default_clients_hold_two_classes_for_training_and_testing() -> None:
    federation = build_federation(DataOptions(), PublicOptions(), 12, seed=0)
    assert list(federation.clients) == [f"client{number:02}" for number in range(12)]
    assert federation.shape == (1, 28, 28)
    assert (federation.classes, federation.mirror, len(federation.public)) == (10, True, 600)
    for data in federation.clients.values():
        # 5,400 examples are 540 a class; 24 hands of 10 classes use a class at most 3 times: 180 a client and
        # class.
        assert data.train.labels.bincount().unique().tolist() in ([0, 144], [144])
        assert data.test.labels.unique().tolist() == data.train.labels.unique().tolist()
        assert (len(data.train), len(data.test)) == (288, 72)
    assert torch.cat([data.train.labels for data in federation.clients.values()]).unique().numel() == 10


@pytest.mark.parametrize(("clients", "last"), [(1, "client00"), (100, "client99"), (101, "client100")])
def test_client_names_are_padded(own_set: Own, clients: int, last: str) -> None:
    federation = build_federation(DataOptions(own_set(1200), partition="iid"), PublicOptions(), clients, seed=0)
    assert list(federation.clients)[-1] == last
    assert sorted(federation.clients) == list(federation.clients)


def test_equal_arguments_give_equal_federations(own_set: Own) -> None:
    options = DataOptions(own_set(600), partition="iid", examples=500)
    first, again, other = (build_federation(options, PublicOptions(), 4, seed) for seed in (1, 1, 2))
    assert by_client(first) == by_client(again)
    assert numbers(first.public) == numbers(again.public)
    assert by_client(first) != by_client(other)
    assert numbers(first.public) != numbers(other.public)


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1}, r"data\.alpha = -1: give a number from 1e-06 to 1e\+06"),
        ({"alpha": float("nan")}, r"data\.alpha = nan"),
        ({"examples": -5}, r"data\.examples = -5: give 0 for all"),
        ({"partition": "shards"}, r"data\.partition = shards: give one of iid, classes, dirichlet"),
        ({"classes_per_client": 0}, r"data\.classes_per_client = 0: give at least 1"),
        ({"shard_size": -1}, r"data\.shard_size = -1"),
        ({"test_share": 0.0}, r"data\.test_share = 0\.0: give a number above 0 and below 1"),
        ({"test_share": 1.0}, r"data\.test_share = 1\.0"),
    ],
)
def test_data_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        DataOptions(**options)


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


def test_more_examples_than_there_are(own_set: Own) -> None:
    with pytest.raises(DataError, match=r"data\.examples = 7: give at most the 6 that numbered_module:load has"):
        build_federation(DataOptions(own_set(6), examples=7), PublicOptions(), 1, seed=0)


def test_a_client_left_without_test_examples_is_named(own_set: Own) -> None:
    with pytest.raises(DataError, match=r"client00 is left with 1 of 9 private examples.*data\.examples.*clients\.count"):
        build_federation(DataOptions(own_set(10), partition="iid"), PublicOptions(), 9, seed=0)


@pytest.mark.parametrize("partition", ["iid", "classes", "dirichlet"])
def test_too_few_examples_are_told_by_the_settings_that_give_more(own_set: Own, partition: Any) -> None:
    data = DataOptions(own_set(40), examples=8, partition=partition)
    with pytest.raises(DataError, match=r"have more examples \(data\.examples\).*\(clients\.count\)"):
        build_federation(data, PublicOptions(), 20, seed=0)


def part(count: int = 2, shape: tuple[int, ...] = (3,), label: int = 0, dtype: torch.dtype = torch.float32) -> Examples:
    return Examples(torch.zeros(count, *shape, dtype=dtype), torch.full((count,), label))


def test_a_federation_made_by_hand() -> None:
    federation = Federation({"north": ClientData(part(), part())}, part().without_labels(), 1, mirror=False)
    assert federation.shape == (3,)


@pytest.mark.parametrize(
    ("train", "test", "public", "message"),
    [
        (part(0), part(), part(), "the train part of client 'north' holds no examples"),
        (part(), part(0), part(), "the test part of client 'north' holds no examples"),
        (part(), part(shape=(4,)), part(), r"test part of client 'north' holds inputs of shape \(4,\)"),
        (part(), part(), part(shape=(3, 1)), r"the public part holds inputs of shape \(3, 1\)"),
        (part(), part(dtype=torch.uint8), part(), r"test part of client 'north' .* type torch\.uint8"),
        (part(label=2), part(), part(), "train part of client 'north' has labels from 2 to 2, but there are 2 classes"),
        (part(), part(), part(label=-1), "the public part has labels from -1 to -1"),
        (part(), Examples(torch.full((2, 3), torch.inf), part().labels), part(), "test part of client 'north' has NaN or inf"),
    ],
)
def test_a_federation_is_checked(train: Examples, test: Examples, public: Examples, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Federation({"north": ClientData(train, test)}, public, 2, mirror=False)


def test_a_federation_needs_clients() -> None:
    with pytest.raises(DataError, match="a federation without clients"):
        Federation({}, part(), 1, mirror=False)


def test_whether_public_images_may_be_mirrored_is_told_by_their_own_set() -> None:
    data = DataOptions(name=f"{__name__}:mirrorable", partition="iid")
    assert build_federation(data, PublicOptions(), 2, 0).mirror
    assert not build_federation(data, PublicOptions(name=f"{__name__}:digits"), 2, 0).mirror


def mirrorable(directory: str) -> Dataset:
    return drawn("mirrorable", mirror=True)


def digits(directory: str) -> Dataset:
    return drawn("digits", mirror=False)


def drawn(name: str, mirror: bool) -> Dataset:
    return Dataset(name, Examples(torch.zeros(60, 1, 4, 4, dtype=torch.uint8), torch.arange(60) % 3), 3, mirror)


def test_few_examples_a_client_are_shared_out_by_dirichlet_too() -> None:
    data = DataOptions(name=f"{__name__}:digits", partition="dirichlet", alpha=0.1)
    federation = build_federation(data, PublicOptions(), 20, 0)
    assert all(len(client.train) + len(client.test) >= 2 for client in federation.clients.values())


def test_float64_inputs_are_used_as_float32() -> None:
    inputs = torch.zeros(2, 3, dtype=torch.float64)
    assert Examples(inputs, torch.zeros(2, dtype=torch.int64)).ready(torch.device("cpu")).inputs.dtype == torch.float32


def test_extremes_are_the_examples_of_the_least_and_largest_numbers_at_every_place() -> None:
    def part(*rows: list[int]) -> Examples:
        return Examples(torch.tensor(rows), torch.zeros(len(rows), dtype=torch.int64))

    held = {"a": ClientData(part([1, 5], [2, 2]), part([3, 3])), "b": ClientData(part([2, 4]), part([9, 2]))}
    federation = Federation(held, part([4, 4], [3, 1]).without_labels(), classes=1, mirror=False)
    assert federation.extremes.tolist() == [[1, 5], [9, 2], [3, 1]]
    floats = {"a": ClientData(*(Examples(one.inputs.float(), one.labels) for one in (held["a"].train, held["a"].test)))}
    assert Federation(floats, Unlabelled(torch.zeros(0, 2)), classes=1, mirror=False).extremes.shape == (0, 2)


def test_digests_tell_data_apart(own_set: Own) -> None:
    def digests(seed: int = 0, **public: Any) -> dict[str, str]:
        return build_federation(DataOptions(own_set(400)), PublicOptions(**public), 3, seed).digests

    assert digests() == digests()
    assert digests().keys() == {"clients", "public"}
    assert all(digests()[part] != digests(seed=1)[part] for part in ("clients", "public"))
    assert digests()["clients"] == digests(labelled=False)["clients"]
    assert digests()["public"] != digests(labelled=False)["public"]
    assert digests(share=0.0)["clients"] != digests()["clients"]


def test_public_examples_of_another_set_may_be_of_any_kind_that_the_clients_are(own_set: Own) -> None:
    public = PublicOptions(name=own_set(60, name="other"))
    federation = build_federation(DataOptions(own_set(400)), public, 3, 0)
    assert federation.public.inputs.shape == (40, 1)
    assert federation.public.inputs.max() < 60
