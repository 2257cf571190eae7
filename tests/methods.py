"""Every method with settings for the toy federation, and a federation that suits it."""

from __future__ import annotations

import pytest
from toy import make_cohort

from pfedhr.algorithm import Algorithm, Setup
from pfedhr.algorithms import ALGORITHMS
from pfedhr.algorithms.fedproto import FedProto
from pfedhr.algorithms.pfedhr import PAPER, PFedHR
from pfedhr.in_process import Cohort

SMALL = {
    "local": {},
    "local-public": {},
    "fedavg": {},
    "fedprox": {},
    "per-fedavg": {},
    "pfedme": {"personal_learning_rate": 0.05, "shared_learning_rate": 0.03},
    "pfedbayes": {},
    "lg-fedavg": {},
    "fedproto": {},
    "fedtgp": {},
    "fedgh": {},
    "fedmd": {"consensus_batch_size": 8},
    "feddistill": {},
    "fccl": {"consensus_batch_size": 8},
    "fml": {"common_network": "mlp"},
    "fedkd": {},
    "fedkemf": {"tuning_epochs": 1, "tuning_batch_size": 8},
    "feddf": {"tuning_epochs": 2, "tuning_batch_size": 8},
    "heterofl": {"global_network": "cnn4-quarter"},
    "pfedhr": {**PAPER, "groups": 3, "candidates": 3, "tuning_epochs": 1, "probe": 8},
    "pfedclub": {"groups": 3, "candidates": 2, "tuning_epochs": 1, "probe": 8},
}
ONE_STRUCTURE = {"fedavg", "fedprox", "per-fedavg", "pfedme", "pfedbayes"}
WIDTHS = {"heterofl": ("cnn4-quarter", "cnn4-eighth")}
OWN_TEACHERS = {"pfedhr", "pfedclub"}
"""A teacher is made for a client of what it has sent: whoever has sent nothing yet has none."""
NETWORKS_AS_DATA = {"feddf", "pfedhr", "pfedclub"}
NEEDS_LABELS = {"local-public", "fedmd"}
NEEDS_FEATURES = {"lg-fedavg", "fedproto", "fedtgp", "fedgh"}
METHODS = [
    *(pytest.param(ALGORITHMS[name](**SMALL[name]), id=name) for name in ALGORITHMS),
    pytest.param(FedProto(prediction="prototypes"), id="fedproto-nearest"),
    pytest.param(PFedHR(teachers="own", tuning_epochs=2, tuning_batch_size=8), id="pfedhr-own"),
    pytest.param(PFedHR(tuning_epochs=2, tuning_batch_size=8), id="pfedhr-structure"),
    pytest.param(PFedHR(tuned_blocks=2, tuning_epochs=2, tuning_batch_size=8), id="pfedhr-last-blocks"),
]
ALONE = {
    **{name: {} for name in ("local", "fedavg", "lg-fedavg", "feddistill", "feddf")},
    "fedprox": {"proximal_weight": 0.0},
    "per-fedavg": {"inner_learning_rate": 0.0},
    "fedproto": {"prototype_weight": 0.0},
    "fedtgp": {"prototype_weight": 0.0},
    "fml": {"own_label_share": 1.0},
    "fedkemf": {"distil_weight": 0.0},
    "pfedhr": {"distil_weight": 0.0},
    "pfedclub": {"distil_weight": 0.0},
}
"""Settings with which one client alone learns as without a federation, bit for bit: nothing but the others adds anything.

The others add something of their own even then; what that is has its known answers in their own tests.
"""


def suited(algorithm: Algorithm, *networks: str, **options: int) -> Cohort:
    """A small cohort such as the method needs: networks of one structure or family, or features of one width."""
    networks = WIDTHS.get(algorithm.name, networks)[: len(networks)]
    networks = networks[:1] if algorithm.name in ONE_STRUCTURE else networks
    cohort = make_cohort(*networks, **options, features=16 if algorithm.name in NEEDS_FEATURES else 0)
    federation = cohort.federation
    algorithm.check(Setup(cohort.networks, federation.public, cohort.training, len(federation.clients)))
    return cohort
