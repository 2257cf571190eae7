"""What chains have in common is done once, and every chain ends as if it were alone."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pfedhr.inference import predict
from pfedhr.reassembly.sharing import predict_chains, run_shared


@given(st.dictionaries(st.integers(), st.text("abc", max_size=6), max_size=12))
def test_every_chain_ends_as_if_alone_and_each_beginning_is_run_once(words: dict[int, str]) -> None:
    taken: list[str] = []

    def take(state: str, letter: str) -> str:
        taken.append(state + letter)
        return taken[-1]

    assert run_shared(words, "", take) == words
    assert sorted(taken) == sorted({word[:end] for word in words.values() for end in range(1, len(word) + 1)})


def test_chains_may_be_longer_than_the_stack_is_deep() -> None:
    chains = {end: ["step"] * 5000 + [end] for end in "ab"}
    assert run_shared(chains, 0, lambda count, step: count + 1) == {"a": 5001, "b": 5001}


def test_chains_predict_what_each_predicts_by_itself() -> None:
    """Layers that change their input in place and that tell train mode from eval are among them; two batches and a part."""
    torch.manual_seed(0)
    first, second, third = nn.Linear(6, 5), nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 5)), nn.BatchNorm1d(5)
    third(torch.randn(20, 5))
    drop, relu = nn.Dropout(0.5), nn.ReLU(inplace=True)
    chains = {"a": [first, relu, third], "b": [first, second, drop], "c": [first], "d": [first, second, third]}
    inputs = torch.randn(150, 6)
    before = inputs.clone()
    found = predict_chains(chains, inputs)
    assert list(found) == list(chains)
    for name, chain in chains.items():
        assert torch.equal(found[name], predict(nn.Sequential(*chain), inputs.clone()))
    assert torch.equal(inputs, before)
    assert drop.training
