from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from toy import likeness

from pfedhr.reassembly import agreement, complement, match, match_logits
from pfedhr.seeding import generator


def test_agreement_is_the_mean_cosine_of_the_slow_loop() -> None:
    rng = generator(0, "logits")
    owners, candidates = torch.randn(3, 7, 5, generator=rng), torch.randn(4, 7, 5, generator=rng)
    fast = agreement(owners, candidates)
    for row, owner in enumerate(owners):
        for column, candidate in enumerate(candidates):
            assert fast[row, column].item() == pytest.approx(likeness(owner, candidate), abs=1e-6)


def test_agreement_does_not_depend_on_scale_and_is_one_with_oneself() -> None:
    logits = torch.randn(2, 6, 4, generator=generator(0, "logits"))
    assert agreement(logits, 5 * logits).diagonal().tolist() == pytest.approx([1, 1])
    assert agreement(logits, -logits).diagonal().tolist() == pytest.approx([-1, -1])


def test_complement_is_the_candidates_share_of_what_the_owner_lacks() -> None:
    """By hand. The owner is right and sure of the first sample, gives the second's class 1/4, the third's 1/2.

    It lacks 0, 3/4 and 1/2 of these; a candidate with 1/5, 2/3 and 9/10 of them has (3/4 * 2/3 + 1/2 * 9/10) / (5/4) = 19/25.
    """
    known = torch.eye(3)
    owner = torch.tensor([[1.0, 1e-30, 1e-30], [0.25, 0.25, 0.5], [0.25, 0.25, 0.5]]).log()
    candidate = torch.tensor([[0.2, 0.4, 0.4], [1 / 6, 2 / 3, 1 / 6], [0.05, 0.05, 0.9]]).log()
    uniform = torch.zeros(3, 3)
    found = complement(owner[None], torch.stack([candidate, uniform]), known)
    assert found[0].tolist() == pytest.approx([19 / 25, 1 / 3])
    perfect = 200 * torch.eye(3)
    assert complement(perfect[None], torch.stack([candidate, perfect]), known)[0].tolist() == [0, 0]
    assert complement(owner[None], perfect[None], known).item() == pytest.approx(1)


def test_complement_is_that_of_the_slow_loop() -> None:
    rng = generator(0, "logits")
    owners, candidates = torch.randn(3, 7, 5, generator=rng), torch.randn(4, 7, 5, generator=rng)
    known = torch.randn(7, 5, generator=rng).softmax(1)
    fast = complement(owners, candidates, known)
    for row, owner in enumerate(owners.softmax(2)):
        for column, candidate in enumerate(candidates.softmax(2)):
            had = lacking = 0.0
            for sample in range(7):
                for label in range(5):
                    lack = known[sample, label].item() * (1 - owner[sample, label].item())
                    had, lacking = had + lack * candidate[sample, label].item(), lacking + lack
            assert fast[row, column].item() == pytest.approx(had / lacking, rel=1e-5)


def test_who_is_like_an_owner_and_who_knows_what_it_lacks_are_not_the_same() -> None:
    owner = torch.tensor([[4.0, 0], [4, 0]])
    known = torch.eye(2)
    alike, different = owner.clone(), torch.tensor([[0.0, 4], [0, 4]])
    assert match_logits({"a": owner}, [alike, different]).choice == {"a": 0}
    benefit = functools.partial(complement, known=known)
    assert match_logits({"a": owner}, [alike, different], score=benefit).choice == {"a": 1}


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


def test_of_nothing_nobody_is_matched() -> None:
    probe, model = torch.randn(3, 2), nn.Linear(2, 2)
    for owners, candidates in (({"a": model}, []), ({}, [model]), ({}, [])):
        matching = match(owners, candidates, probe)
        assert matching.choice == {}
        assert matching.scores.shape == (len(owners), len(candidates))
