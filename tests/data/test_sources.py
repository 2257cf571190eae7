"""Data sets by name: unknown names, and sets that a function of the user's own returns."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pfedhr.data import NAMES, DataError, Dataset, Examples, load
from pfedhr.data.generated import LENGTH, TOPICS, vocabulary
from pfedhr.zoo.text import VOCABULARY


def test_unknown_name_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(DataError, match=r"'minst' is not a known data set: did you mean 'mnist'\?") as caught:
        load("minst")
    assert all(name in str(caught.value) for name in NAMES)
    assert "package.module:function" in str(caught.value)


def own_module(monkeypatch: pytest.MonkeyPatch, **functions: object) -> None:
    module = types.ModuleType("own_data")
    module.__dict__.update(functions)
    monkeypatch.setitem(sys.modules, "own_data", module)


def test_own_function_is_called_with_the_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    mine = Dataset("mine", Examples(torch.zeros(3, 5), torch.tensor([0, 1, 1])), 2, mirror=False)
    own_module(monkeypatch, load=lambda directory: (asked.append(directory), mine)[1])
    assert load("own_data:load", "/some/folder") is mine
    assert asked == ["/some/folder"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_data:absent", "own_data has no function 'absent'"),
        ("own_data:number", "'number' in own_data is of type int; name a function"),
        ("own_data:wrong", "the function returned list; return a pfedhr.data.Dataset"),
        ("no_such_module:load", "there is no module 'no_such_module' to import.*PYTHONPATH"),
        ("own_data:", "not of the form 'package.module:function'"),
        ("../own.py:load", "not of the form 'package.module:function'"),
    ],
)
def test_own_function_is_checked(monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    own_module(monkeypatch, number=3, wrong=lambda directory: [])
    with pytest.raises(DataError, match=message):
        load(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import package_that_is_absent", "ModuleNotFoundError: No module named 'package_that_is_absent'"),
        ("def load(:", "SyntaxError: invalid syntax"),
    ],
)
def test_a_failing_import_inside_the_users_module_is_not_hidden(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_broken.py").write_text(text + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=f"data set 'own_broken:load': importing own_broken failed: {message}"):
        load("own_broken:load")


def boom(directory: str) -> Dataset:
    raise RuntimeError("boom")


def takes_nothing() -> None: ...


def without_labels(directory: str) -> Dataset:
    return Dataset("mine", Examples(torch.zeros(2, 3), None), 2, mirror=False)  # type: ignore[arg-type]


def lost(directory: str) -> Dataset:
    raise FileNotFoundError(2, "No such file or directory", "images.pt")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (boom, "data set 'own_data:load' failed when called with data.dir = 'here': RuntimeError: boom"),
        (takes_nothing, r"failed when called with data.dir = 'here': TypeError: takes_nothing\(\) takes 0 .* takes data.dir"),
        (without_labels, "data set 'own_data:load': labels of type NoneType: give a torch.Tensor"),
    ],
)
def test_an_own_function_that_fails_is_named(
    function: Callable[..., object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_module(monkeypatch, load=function)
    with pytest.raises(DataError, match=message):
        load("own_data:load", "here")


def test_a_file_that_an_own_function_misses_stays_a_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    own_module(monkeypatch, load=lost)
    with pytest.raises(FileNotFoundError, match=r"images\.pt"):
        load("own_data:load")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            torch.tensor([[0.0, 1.0], [2.0, torch.nan], [torch.inf, 1.0]]),
            "2 of 3 examples, the first at row 1",
        ),
        (torch.tensor([1.0, -torch.inf, 0.0]), "1 of 3 examples, the first at row 1"),
        (torch.zeros(3, 2, requires_grad=True), r"require gradients: give inputs\.detach\(\)"),
        (torch.eye(3).to_sparse(), r"sparse inputs: give dense ones"),
        (torch.zeros(3, 2, 0), r"inputs of shape \(2, 0\), which hold no number"),
        (torch.tensor([[0.0], [0.0], [-1e300]], dtype=torch.float64), "beyond float32, .*1 of 3 examples, the first at row 2"),
    ],
)
def test_inputs_that_cannot_be_learnt_from_are_refused(inputs: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=f"data set 'mine' has .*{message}"):
        Dataset("mine", Examples(inputs, torch.zeros(3, dtype=torch.int64)), 1, mirror=False)


@pytest.mark.parametrize(
    ("classes", "mirror", "message"),
    [
        (np.int64(3), True, r"classes = .*3.* of type int64: give an int of 1 or more"),
        (torch.tensor(3), True, r"classes = tensor\(3\) of type Tensor"),
        (0, True, "classes = 0 of type int"),
        (True, True, "classes = True of type bool"),
        (3, np.bool_(True), "mirror = .*True.* of type bool.*: give True or False"),
        (3, 1, "mirror = 1 of type int"),
    ],
)
def test_fields_of_another_type_are_refused_by_name(classes: Any, mirror: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"data set 'mine': {message}"):
        Dataset("mine", Examples(torch.zeros(2, 1), torch.tensor([0, 0])), classes, mirror)


def test_dataset_checks_its_labels() -> None:
    with pytest.raises(DataError, match=r"data set 'mine' has labels from -1 to 2, but there are 3 classes"):
        Dataset("mine", Examples(torch.zeros(2, 1), torch.tensor([2, -1])), 3, mirror=False)
    with pytest.raises(DataError, match="data set 'mine' holds no examples"):
        Dataset("mine", Examples(torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64)), 3, mirror=False)


def test_sentences_are_told_apart_by_the_order_of_words_only() -> None:
    dataset = load("sentences")
    inputs, labels = dataset.examples.inputs, dataset.examples.labels
    assert (inputs.dtype, inputs.shape, dataset.classes) == (torch.int64, (6000, LENGTH), len(TOPICS))
    assert inputs[:, -1].min() > 0  # sentences end in a word
    assert inputs.max() < VOCABULARY
    words = {number: word for word, number in vocabulary().items()}
    topic = {activity: at for at, activities in enumerate(TOPICS.values()) for activity in activities.split()}
    assert len(topic) == 64  # no activity is of two topics
    seen: dict[tuple[str, ...], set[int]] = {}
    for row, label in zip(inputs.tolist(), labels.tolist(), strict=True):
        sentence = [words[number] for number in row if number]
        named = [topic[word] for word in sentence if word in topic]
        assert len(set(named)) == 2
        assert label in named
        seen.setdefault(tuple(sorted(sentence)), set()).add(label)
    assert any(len(found) == 2 for found in seen.values())  # the same words, another class
    assert torch.equal(load("sentences").examples.inputs, inputs)
    assert len(inputs.unique(dim=0)) == len(inputs)  # none is in two places, then, however they are shared out


def test_digits_are_scaled_measurements() -> None:
    dataset = load("digits")
    inputs, labels = dataset.examples.inputs, dataset.examples.labels
    assert (inputs.dtype, inputs.shape, dataset.classes, dataset.mirror) == (torch.float32, (1797, 64), 10, False)
    assert (inputs.min(), inputs.max()) == (-1, 1)
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # as UCI publishes them


def test_without_scikit_learn_digits_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DataError, match=r"pip install 'pfedhr\[tabular\]'"):
        load("digits")
