"""What a message says helps against what cannot be followed, helps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from pfedhr.reassembly import DecompositionError, decompose, describe

WORDS = torch.tensor([[3, 4, 0], [5, 0, 0], [6, 7, 8]])


class Dropping(nn.Module):
    """Drops values by a layer that it calls in training, or always."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.body, self.drop, self.head, self.always = nn.Linear(6, 5), nn.Dropout(0.3), nn.Linear(5, 2), always

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x).relu()
        if self.always or self.training:
            hidden = self.drop(hidden)
        return self.head(hidden)


class Masked(nn.Module):
    """A transformer that does not look at padding."""

    def __init__(self, **encoder: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.words, self.layers, self.head = nn.Embedding(9, 8), nn.TransformerEncoder(layer, 2, **encoder), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.words(x), src_key_padding_mask=x == 0).mean(1))


class Recurrent(nn.Module):
    """Reads words up to the padding, or all."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.words, self.recurrent, self.head = nn.Embedding(9, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 2)
        self.packed = packed

    def forward(self, x: Tensor) -> Tensor:
        inputs = self.words(x)
        if self.packed:
            inputs = pack_padded_sequence(inputs, (x > 0).sum(1), batch_first=True, enforce_sorted=False)
        return self.head(self.recurrent(inputs)[1][-1])


class Asserting(nn.Module):
    def __init__(self, asserting: bool) -> None:
        super().__init__()
        self.body, self.head, self.asserting = nn.Linear(6, 5), nn.Linear(5, 2), asserting

    def forward(self, x: Tensor) -> Tensor:
        assert not self.asserting or isinstance(x, Tensor)
        return self.head(self.body(x).relu())


REFUSED = {
    "a branch on the mode": (Dropping(False), Dropping(True), torch.randn(3, 6), "call the same layers in training and in"),
    "a padding mask": (
        Masked(),
        Masked(enable_nested_tensor=False),
        WORDS,
        "with enable_nested_tensor=False",
    ),
    "packed sequences": (Recurrent(True), Recurrent(False), WORDS, "give recurrent layers the padded batch"),
    "an assertion": (Asserting(True), Asserting(False), torch.randn(3, 6), "Remedies: leave out assertions on"),
}


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor", "ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", REFUSED)
def test_the_remedy_is_one_for_this_cause(name: str) -> None:
    refused, mended, example, remedy = REFUSED[name]
    for take in (describe, decompose):
        with pytest.raises(DecompositionError) as refusal:
            take(refused, example)
        assert remedy in str(refusal.value)
        assert str(refusal.value).count("Remedies: ") == 1
        take(mended, example)
    assert decompose(refused, example, whole=True)


@pytest.mark.parametrize("make", [torch.compile, torch.jit.script], ids=["compiled", "scripted"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_a_network_that_is_no_python_any_more_is_refused_in_words(make: object) -> None:
    assert callable(make)
    plain = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    for take in (describe, decompose):
        with pytest.raises(DecompositionError, match=r"the network was made by torch\.(compile|jit).*give what it was made of"):
            take(make(plain), torch.randn(3, 6))
        take(plain, torch.randn(3, 6))
    inner = nn.Sequential(torch.compile(nn.Linear(6, 5)), nn.ReLU(), nn.Linear(5, 2))
    with pytest.raises(DecompositionError, match=r"^0 was made by torch\.compile"):
        decompose(inner, torch.randn(3, 6))


def test_what_is_compiled_and_never_called_is_in_nobodys_way() -> None:
    class Aside(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](self[0](x).relu())

    model = Aside(nn.Linear(6, 5), nn.Linear(5, 2))
    model.aside = torch.compile(nn.Identity())
    assert len(decompose(model, torch.randn(3, 6))) == 2


def test_assertions_of_torch_are_not_taken_for_the_networks_own() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend, self.head = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            padding = torch.zeros(7, 4, dtype=torch.bool)
            return self.head(self.attend(x, x, x, key_padding_mask=padding)[0].mean(1))

    with pytest.raises(DecompositionError) as refusal:
        decompose(Attending(), torch.randn(3, 4, 6))
    assert "leave out assertions" not in str(refusal.value)
