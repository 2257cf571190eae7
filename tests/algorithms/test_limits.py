"""Limits in which a method's answer is known without a computer, or in which it is another method."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from toy import make_cohort

from pfedhr.algorithm import SettingError, Setup
from pfedhr.algorithms.consensus import Consensus
from pfedhr.algorithms.fedavg import FedAvg
from pfedhr.algorithms.fedmd import FedMD, Pupil
from pfedhr.algorithms.fedtgp import FedTGP
from pfedhr.algorithms.held import Held, Shared
from pfedhr.algorithms.homogeneous import Trained
from pfedhr.algorithms.lg_fedavg import LGFedAvg
from pfedhr.algorithms.own import Own
from pfedhr.algorithms.per_class import ClassMeans
from pfedhr.algorithms.pfedme import PFedMe
from pfedhr.algorithms.private import initial_weights
from pfedhr.algorithms.shared_head import take_head
from pfedhr.in_process import InProcess, Workers
from pfedhr.learning import Training


def linear(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A network that is a head and nothing else."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


def test_what_fedmd_agrees_with_moves_nothing_and_the_distance_is_the_mean_absolute_one() -> None:
    cohort = make_cohort("mlp", clients=1)
    view = replace(cohort.client_view("client00", 2), training=Training(0, 8, 0.1, weight_decay=0.0))
    silent = {name: torch.zeros_like(value) for name, value in initial_weights(view).items()}  # all logits are exactly 0
    method = FedMD(pretraining_epochs=0)
    agreed = Consensus(torch.zeros(16, 4), 1)
    state, reply, metrics = method.client_step(Pupil(silent, True), agreed, view)
    assert metrics["consensus_loss"] == 0.0
    assert all(not value.any() for value in state.weights.values())
    assert not reply.logits.any()
    other = Consensus(torch.tensor([3.0, 0.0, 0.0, -2.0]).expand(16, 4), 1)
    _, _, metrics = method.client_step(Pupil(silent, True), other, view)
    assert metrics["consensus_loss"] == pytest.approx((3 + 2) / 4)


def test_with_one_class_fedtgp_has_the_limit_as_its_margin() -> None:
    view = InProcess(FedTGP(), Workers(make_cohort("mlp", features=8))).server_view(1)
    one = ClassMeans(torch.ones(1, 8), torch.tensor([2]), torch.tensor([5]))
    method = FedTGP(margin_limit=7.0, server_epochs=1)
    server, metrics = method.server_step(method.init_server(view), {"client00": one}, view)
    assert metrics["margin"] == 7.0
    assert server.down.table is not None
    assert server.down.table.known.tolist() == [False, False, True, False]


def test_fedtgp_refuses_a_margin_without_limit() -> None:
    """With one class known it would be infinite, and so would its prototype."""
    cohort = make_cohort("mlp", features=8)
    with pytest.raises(SettingError, match=r"algorithm.margin_limit = inf of fedtgp: choose a finite number"):
        FedTGP(margin_limit=float("inf")).check(Setup(cohort.networks, cohort.federation.public, cohort.training, 4))


def test_pfedme_holds_theta_at_w_by_a_heavy_tie_and_takes_plain_steps_without_one() -> None:
    # f = (theta - 3) ** 2 / 2, w = 1
    def solved(envelope: float, rate: float, steps: int) -> tuple[float, float]:
        theta = nn.Parameter(torch.tensor([0.0], dtype=torch.float64))
        shared = [torch.tensor([1.0], dtype=torch.float64)]
        method = PFedMe(envelope=envelope, personal_steps=steps, personal_learning_rate=rate, shared_learning_rate=0.0)
        method.envelope_step([theta], shared, lambda: (theta - 3).square().sum() / 2)
        return theta.item(), shared[0].item()

    # A step of 1 / (1 + lambda) leads to the minimum, (3 + lambda w) / (1 + lambda), which tends to w.
    for envelope in (1.0, 1e3, 1e9):
        theta, shared = solved(envelope, 1 / (1 + envelope), 1)
        assert theta == pytest.approx((3 + envelope) / (1 + envelope))
        assert shared == 1.0
    assert theta == pytest.approx(1.0, abs=1e-8)
    theta, shared = solved(0.0, 0.1, 5)
    assert theta == pytest.approx(3 * (1 - 0.9**5))  # five steps of gradient descent from 0
    assert shared == 1.0


def test_lg_fedavg_is_fedavg_where_the_network_is_a_head() -> None:
    cohort = make_cohort("test_limits:linear")
    view = InProcess(LGFedAvg(), Workers(cohort)).server_view(1)
    shared = initial_weights(cohort.client_view("client00", 0))
    heads: dict[str, Trained] = {}
    networks: dict[str, Trained] = {}
    for client in cohort.networks:
        own = cohort.client_view(client, 1)
        head = Shared(take_head(own.network, shared))
        _, heads[client], _ = LGFedAvg().client_step(Own(initial_weights(own)), head, own)
        _, networks[client], _ = FedAvg().client_step(Held(shared, None), Shared(shared), own)
    lg, _ = LGFedAvg().server_step(Shared(None), heads, view)
    fed, _ = FedAvg().server_step(Shared(None), networks, view)
    assert lg.weights is not None
    assert fed.weights is not None
    assert torch.equal(lg.weights["weight"], fed.weights["1.weight"])
    assert torch.equal(lg.weights["bias"], fed.weights["1.bias"])
    assert not torch.equal(lg.weights["weight"], shared["1.weight"])
