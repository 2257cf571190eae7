from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pfedhr.heads import Extractor, HeadError, adapt, head_name


class Branched(nn.Module):
    """Has a second classifier for training alone, made before the first or after it."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.body = nn.Linear(4, 8)
        if not last:
            self.aside = nn.Linear(8, 3)
        self.head = nn.Linear(8, 3)
        if last:
            self.aside = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        features = torch.relu(self.body(inputs))
        if self.training:
            return self.head(features) + 0.1 * self.aside(features)
        return self.head(features)


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(input=torch.relu(self.body(inputs)))


@pytest.mark.parametrize("model", [Branched(last=False), ByKeyword()], ids=["by-place", "by-keyword"])
def test_features_are_what_enters_the_head_however_it_is_called(model: nn.Module) -> None:
    inputs = torch.randn(5, 4)
    extractor = Extractor(model.eval(), 3)
    extractor.check(inputs)
    features, logits = extractor(inputs)
    assert torch.equal(features, torch.relu(model.body(inputs)))
    assert torch.equal(logits, model(inputs))


def test_a_last_linear_layer_that_is_never_called_is_refused_by_name() -> None:
    model = Branched(last=True)
    assert head_name(model, 3) == "aside"
    with pytest.raises(HeadError, match=r"linear layer of 3 outputs, 'aside', is not called in evaluation: let __init__"):
        Extractor(model, 3).check(torch.randn(2, 4))
    adapt(model, 6, 3)
    with pytest.raises(HeadError, match=r"'aside\.2', is not called"):
        Extractor(model, 3).check(torch.randn(2, 4))
