"""The noise of differential privacy: of whom, drawn from what, and never twice."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from test_privacy import COVERED, METHODS, STRONG, cohort_of, run
from toy import equal, make_cohort, separable
from toy_runs import PRIVATE

from pfedhr.algorithm import Algorithm
from pfedhr.algorithms import ALGORITHMS
from pfedhr.algorithms.fedavg import FedAvg
from pfedhr.algorithms.fedprox import FedProx
from pfedhr.algorithms.held import Held, Shared
from pfedhr.experiment_file import dump, override, parse
from pfedhr.in_process import Cohort
from pfedhr.launch import prepare
from pfedhr.learning import (
    private_steps,
)
from pfedhr.parcel import pack, unpack
from pfedhr.transport import Order, handle


@pytest.mark.parametrize("algorithm", METHODS)
def test_the_steps_that_are_counted_are_those_that_are_taken(algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch) -> None:
    from opacus.optimizers import DPOptimizer

    steps, real = list[float](), DPOptimizer.step
    monkeypatch.setattr(DPOptimizer, "step", lambda self: steps.append(self.noise_multiplier) or real(self))
    cohort = cohort_of(algorithm, epochs=2)
    results, _, _ = run(algorithm, cohort, 3)
    assert len(steps) == sum(len(result.active) for result in results) * private_steps(24, cohort.training) == 9 * 6
    assert set(steps) == {1.0}


def test_no_two_runs_share_their_noise() -> None:
    """Whoever sees what two of them tell would have the difference without any."""

    def weights(method: FedAvg, cohort: Cohort) -> dict[str, torch.Tensor]:
        order = Order(1, pack(Shared(None)), evaluate=False)
        _, state = handle(method, cohort.client_view("client00", 1), separable(4), order, None)
        return unpack(Held, state or b"").weights

    private, plain = (make_cohort("mlp", privacy=privacy) for privacy in (STRONG, None))
    assert equal(weights(FedAvg(), plain), weights(FedProx(proximal_weight=0.0), plain))
    assert equal(weights(FedAvg(), private), weights(FedAvg(), private))
    assert not equal(weights(FedAvg(), private), weights(FedProx(proximal_weight=0.0), private))
    assert not equal(weights(FedProx(proximal_weight=1e-9), private), weights(FedProx(proximal_weight=0.0), private))
    experiment = parse(PRIVATE, "the test")
    elsewhere = dataclasses.replace(experiment, name="another", workers=2, compare_local=False, algorithm=FedProx())
    longer = dataclasses.replace(experiment, plan=dataclasses.replace(experiment.plan, rounds=4))
    first, same, other = (prepare(one).privacy for one in (experiment, elsewhere, longer))
    assert first == same  # the method is in what a step draws, not in this
    assert first != other


def test_noise_and_batches_are_not_of_a_seed_that_can_be_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch seeds its generator from 32 bits of a number, which can all be tried."""
    seen = generators_of_training(monkeypatch)
    view = make_cohort("mlp", privacy=STRONG).client_view("client00", 1)
    FedAvg().client_step(FedAvg().init_client(view), Shared(None), view)
    assert len(seen) == 2
    for one in seen:
        assert not torch.equal(one.get_state(), torch.Generator().manual_seed(one.initial_seed()).get_state())


def generators_of_training(monkeypatch: pytest.MonkeyPatch) -> list[torch.Generator]:
    """What private training draws its batches and its noise from, from now on; it trains nothing."""
    seen = list[torch.Generator]()

    def fit_privately(*given: Any) -> float:
        seen.extend(one for one in given if isinstance(one, torch.Generator))
        return 0.0

    monkeypatch.setattr("pfedhr.algorithms.private.fit_privately", fit_privately)
    return seen


def test_no_two_steps_of_a_round_share_their_noise_whatever_a_server_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the same step again draws the same: a server may ask twice for one round, with two messages or settings."""
    seen, draws = generators_of_training(monkeypatch), list[bytes]()
    view = make_cohort("mlp", privacy=STRONG).client_view("client00", 1)
    weights = FedAvg().init_client(view).weights
    halves = {name: value / 2 for name, value in weights.items()}
    faster = dataclasses.replace(view, training=dataclasses.replace(view.training, learning_rate=0.5))
    tighter = dataclasses.replace(view, privacy=dataclasses.replace(STRONG, clip=0.5))
    steps = [
        *((view, Shared(sent), None) for sent in (None, weights, halves)),
        *((view, Shared(weights), Held(state, None)) for state in (weights, halves)),
        *((other, Shared(weights), None) for other in (faster, tighter, dataclasses.replace(view, seed=1))),
    ]
    for at, message, state in [*steps, *steps]:
        handle(FedAvg(), at, separable(4), Order(1, pack(message), False), None if state is None else pack(state))
        draws.append(b"".join(one.get_state().numpy().tobytes() for one in seen[-2:]))
    assert draws[: len(steps)] == draws[len(steps) :]
    assert len(set(draws)) == len(steps)


def test_a_seed_of_any_size_is_kept_as_it_is() -> None:
    long = override(parse(PRIVATE, "the test"), ["--seed", str(2**200 + 1)])
    assert parse(dump(long), "dumped").seed == 2**200 + 1
    assert prepare(long).privacy != prepare(dataclasses.replace(long, seed=1)).privacy


def test_it_is_the_same_after_a_stop_and_in_processes() -> None:
    algorithm = ALGORITHMS["pfedhr"](**COVERED["pfedhr"])
    cohort = cohort_of(algorithm)
    _, states, sent = run(algorithm, cohort, 2)
    assert run(algorithm, cohort, 2, stop_after=1)[1:] == (states, sent)
    assert run(algorithm, cohort, 2, workers=2)[1:] == (states, sent)
    assert run(algorithm, dataclasses.replace(cohort, seed=1), 2)[1] != states
    assert run(algorithm, cohort_of(algorithm, None), 2)[1] != states
