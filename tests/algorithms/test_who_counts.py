"""Whose uploads count in a server's means, and for how much."""

from __future__ import annotations

import pytest
import torch
from toy import make_cohort

from pfedhr.algorithm import Algorithm
from pfedhr.algorithms.fedavg import FedAvg
from pfedhr.algorithms.feddistill import FedDistill
from pfedhr.algorithms.fedproto import FedProto
from pfedhr.algorithms.fedprox import FedProx
from pfedhr.algorithms.fedtgp import FedTGP
from pfedhr.algorithms.held import Shared
from pfedhr.algorithms.homogeneous import Trained
from pfedhr.algorithms.lg_fedavg import LGFedAvg
from pfedhr.algorithms.per_class import ClassMeans
from pfedhr.algorithms.per_fedavg import PerFedAvg
from pfedhr.in_process import InProcess, Workers


@pytest.mark.parametrize("method", [FedAvg(), FedProx(), LGFedAvg()], ids=lambda method: method.name)
def test_networks_count_by_their_examples(method: Algorithm) -> None:
    assert mean_of(method) == 3.0


def test_networks_of_per_fedavg_count_once_each() -> None:
    assert mean_of(PerFedAvg()) == 2.0


def mean_of(method: Algorithm) -> float:
    """What the server makes of 0 from one example and 4 from three."""
    view = InProcess(method, Workers(make_cohort("mlp", features=16))).server_view(1)
    replies = {"a": Trained({"w": torch.tensor([0.0])}, 1), "b": Trained({"w": torch.tensor([4.0])}, 3)}
    server, _ = method.server_step(Shared(None), replies, view)
    return server.weights["w"].item()


@pytest.mark.parametrize("method", [FedProto(), FedTGP(server_epochs=0), FedDistill()], ids=lambda method: method.name)
def test_what_clients_that_are_away_sent_last_still_counts(method: Algorithm) -> None:
    width = 4 if method.name == "feddistill" else 16
    view = InProcess(method, Workers(make_cohort("mlp", features=16))).server_view(1)
    one, other = (ClassMeans(torch.rand(1, width).softmax(1), torch.tensor([label]), torch.tensor([5])) for label in (0, 3))
    server, _ = method.server_step(method.init_server(view), {"client00": one}, view)
    server, _ = method.server_step(server, {"client01": other}, view)
    table = method.message(server, "client02").table
    assert table.known.tolist() == [True, False, False, True]
