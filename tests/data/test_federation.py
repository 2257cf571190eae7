"""Building federations: who gets which example, and which options are refused."""

from __future__ import annotations

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
)

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


def test_more_examples_than_there_are(own_set: Own) -> None:
    with pytest.raises(DataError, match=r"data\.examples = 7: give at most the 6 that numbered_module:load has"):
        build_federation(DataOptions(own_set(6), examples=7), PublicOptions(), 1, seed=0)


def test_a_client_left_without_test_examples_is_named(own_set: Own) -> None:
    with pytest.raises(DataError, match=r"client00 is left with 1 of 9 private examples.*data\.examples.*clients\.count"):
        build_federation(DataOptions(own_set(10), partition="iid"), PublicOptions(), 9, seed=0)
    with pytest.raises(DataError, match=r"client00 is left with 1 of .*data\.partition = iid or dirichlet, for by classes no"):
        build_federation(DataOptions(own_set(40), classes_per_client=1, shard_size=1), PublicOptions(), 3, seed=0)


@pytest.mark.parametrize("partition", ["iid", "classes", "dirichlet"])
def test_too_few_examples_are_told_by_the_settings_that_give_more(own_set: Own, partition: Any) -> None:
    data = DataOptions(own_set(40), examples=8, partition=partition)
    with pytest.raises(DataError, match=r"have more examples \(data\.examples.*\(clients\.count\)"):
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


def test_extremes_of_floats_are_of_the_places_that_hold_whole_numbers_alone() -> None:
    """Codes of categories may lie beside measurements."""

    def extremes(*rows: list[float]) -> list[list[float]]:
        inputs = torch.tensor(rows)
        examples = Examples(inputs, torch.zeros(len(rows), dtype=torch.int64))
        federation = Federation({"a": ClientData(examples, examples)}, Unlabelled(inputs[:0]), classes=1, mirror=False)
        return federation.extremes.tolist()

    assert extremes([0.5, 3.0], [0.25, 1.0], [9.5, 2.0], [7.5, 8.0]) == [[0.25, 1.0], [7.5, 8.0]]
    assert extremes([0.5, 3.0], [0.1, 1.5]) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_used_as_float32(dtype: torch.dtype) -> None:
    inputs = Unlabelled(torch.tensor([[0.5, 2.0]], dtype=dtype))
    assert torch.equal(inputs.ready(torch.device("cpu")).inputs, torch.tensor([[0.5, 2.0]]))


def test_complex_inputs_are_refused() -> None:
    examples = Examples(torch.zeros(2, 3, dtype=torch.complex64), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(DataError, match=r"the train part of client 'a' has complex inputs: give their real and imaginary"):
        Federation({"a": ClientData(examples, examples)}, Unlabelled(examples.inputs), classes=1, mirror=False)


def test_digests_tell_data_apart(own_set: Own) -> None:
    def digests(seed: int = 0, **public: Any) -> dict[str, str]:
        return build_federation(DataOptions(own_set(400)), PublicOptions(**public), 3, seed).digests

    assert digests() == digests()
    assert digests().keys() == {"clients", "public"}
    assert all(digests()[part] != digests(seed=1)[part] for part in ("clients", "public"))
    assert digests()["clients"] == digests(labelled=False)["clients"]
    assert digests()["public"] != digests(labelled=False)["public"]
    assert digests(share=0.0)["clients"] != digests()["clients"]
