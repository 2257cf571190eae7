from __future__ import annotations

import math

import pytest
import torch

from pfedhr.learning import distil, nt_xent, soft_targets
from pfedhr.seeding import generator


def test_nt_xent_known_answers() -> None:
    same = torch.ones(8, 3)
    assert nt_xent(same, same).item() == pytest.approx(math.log(15), abs=1e-5)
    pairs = torch.tensor([[1.0, 0], [0, 1]])
    assert nt_xent(pairs, pairs, 0.5).item() == pytest.approx(math.log(1 + 2 * math.exp(-1 / 0.5)), abs=1e-6)
    assert nt_xent(pairs, pairs, 0.5).item() == pytest.approx(0.239545, abs=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_nt_xent_is_the_slow_loop(batch: int) -> None:
    rng = generator(0, "views")
    first, second = torch.randn(batch, 4, generator=rng), torch.randn(batch, 4, generator=rng)
    views = [*first, *second]
    total = 0.0
    for i, view in enumerate(views):
        scores = [math.exp(torch.cosine_similarity(view, other, dim=0).item() / 0.5) for other in views]
        j = (i + batch) % (2 * batch)
        total -= math.log(scores[j] / sum(score for k, score in enumerate(scores) if k != i))
    assert nt_xent(first, second, 0.5).item() == pytest.approx(total / (2 * batch), abs=1e-5)


def test_distillation_is_the_kl_of_softmaxes() -> None:
    rng = generator(0, "logits")
    student, teacher = torch.randn(5, 4, generator=rng), torch.randn(5, 4, generator=rng)
    for temperature in (1.0, 3.0):
        p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
        slow = (p * (p.log() - q.log())).sum(1).mean() * temperature**2
        assert distil(student, soft_targets(teacher, temperature), temperature).item() == pytest.approx(slow.item(), abs=1e-6)


def test_a_teacher_that_agrees_teaches_nothing_and_shifts_do_not_count() -> None:
    # (2, 0) against (2, 0) + 10 has the same probabilities
    student = torch.tensor([[2.0, 0.0]], requires_grad=True)
    for teacher in (student, student + 10):
        loss = distil(student, soft_targets(teacher))
        assert loss.item() == pytest.approx(0, abs=1e-6)
        (gradient,) = torch.autograd.grad(loss, student)
        assert gradient.abs().max().item() < 1e-6


def test_the_teacher_gets_no_gradient() -> None:
    teacher = torch.randn(3, 4, requires_grad=True)
    student = torch.randn(3, 4, requires_grad=True)
    distil(student, soft_targets(teacher)).backward()
    assert teacher.grad is None
    assert student.grad is not None
