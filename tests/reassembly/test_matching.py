from __future__ import annotations

import pytest
import torch
from torch import nn

from pfedhr.reassembly import agreement, match, match_logits
from pfedhr.seeding import generator


def test_agreement_is_the_mean_cosine_of_the_slow_loop() -> None:
    rng = generator(0, "logits")
    owners, candidates = torch.randn(3, 7, 5, generator=rng), torch.randn(4, 7, 5, generator=rng)
    fast = agreement(owners, candidates)
    for row, owner in enumerate(owners):
        for column, candidate in enumerate(candidates):
            slow = sum(a @ b / (a.norm() * b.norm()) for a, b in zip(owner, candidate, strict=True)) / 7
            assert fast[row, column].item() == pytest.approx(slow.item(), abs=1e-6)


def test_agreement_does_not_depend_on_scale_and_is_one_with_oneself() -> None:
    logits = torch.randn(2, 6, 4, generator=generator(0, "logits"))
    assert agreement(logits, 5 * logits).diagonal().tolist() == pytest.approx([1, 1])
    assert agreement(logits, -logits).diagonal().tolist() == pytest.approx([-1, -1])


def test_the_first_of_equal_candidates_wins_and_the_excluded_never() -> None:
    owner = torch.tensor([[1.0, 0], [0, 1]])
    candidates = [-owner, owner, owner.clone()]
    assert match_logits({"a": owner}, candidates).choice == {"a": 1}
    assert match_logits({"a": owner}, candidates, {("a", 1)}).choice == {"a": 2}
    everything = {("a", 0), ("a", 1), ("a", 2)}
    assert match_logits({"a": owner, "b": -owner}, candidates, everything).choice == {"b": 0}


def test_models_are_matched_in_eval_mode_and_left_in_theirs() -> None:
    dropping = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.9)).train()
    matching = match({"a": dropping}, [nn.Linear(4, 3), dropping], torch.randn(5, 4))
    assert matching.choice == {"a": 1}
    assert dropping.training
