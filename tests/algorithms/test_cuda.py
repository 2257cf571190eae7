"""What every method must do on a GPU, over the table of methods."""

from __future__ import annotations

import dataclasses

import pytest
from methods import METHODS, NEEDS_LABELS, OWN_TEACHERS, suited
from toy import needs_cuda
from toy_rounds import run, without_times

from pfedhr.algorithm import Algorithm
from pfedhr.experiment import Experiment
from pfedhr.federate import Schedule
from pfedhr.in_process import Cohort


def on_cuda(algorithm: Algorithm, labelled: bool) -> Cohort:
    """A cohort that takes enough steps a round for them to be replayed."""
    device = Experiment(device="cuda").torch_device
    return dataclasses.replace(suited(algorithm, "cnn4", "resnet", labelled=labelled, epochs=16), device=device)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(
    ("algorithm", "labelled"),
    [pytest.param(one.values[0], True, id=one.id) for one in METHODS]
    + [pytest.param(one.values[0], False, id=f"{one.id}-unlabelled") for one in METHODS if one.id not in NEEDS_LABELS],
)
def test_rounds_run_on_a_gpu(algorithm: Algorithm, labelled: bool) -> None:
    results, _ = run(algorithm, on_cuda(algorithm, labelled), Schedule(4, 4))
    accuracies = [scores.own.accuracy for scores in results[-1].scores.values()]
    assert sum(accuracies) / len(accuracies) > 0.9


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("algorithm", [method for method in METHODS if method.id not in OWN_TEACHERS])
def test_a_run_on_a_gpu_is_the_same_again(algorithm: Algorithm) -> None:
    # But for stitches that resize maps: torch has no gradient of adaptive pooling on CUDA that sums in one order.
    first, states = run(algorithm, on_cuda(algorithm, labelled=True), Schedule(2, 4))
    again, same = run(algorithm, on_cuda(algorithm, labelled=True), Schedule(2, 4))
    assert [without_times(result) for result in first] == [without_times(result) for result in again]
    assert states == same
