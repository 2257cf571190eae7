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
LOCAL_WHEN_ALONE = {"local", "lg-fedavg", "feddistill"}
"""What the other clients give is all that these add, so that one client alone learns as without them, bit for bit."""
OWN_TEACHERS = {"pfedhr", "pfedclub"}
"""A teacher is made for a client of what it has sent: whoever has sent nothing yet has none."""
NEEDS_LABELS = {"local-public", "fedmd"}
NEEDS_FEATURES = {"lg-fedavg", "fedproto", "fedtgp", "fedgh"}
METHODS = [
    *(pytest.param(ALGORITHMS[name](**SMALL[name]), id=name) for name in ALGORITHMS),
    pytest.param(FedProto(prediction="prototypes"), id="fedproto-nearest"),
    pytest.param(PFedHR(teachers="own", tuning_epochs=2, tuning_batch_size=8), id="pfedhr-own"),
    pytest.param(PFedHR(tuned_blocks=2, tuning_epochs=2, tuning_batch_size=8), id="pfedhr-structure"),
]


def suited(algorithm: Algorithm, *networks: str, **options: int) -> Cohort:
    """A small cohort such as the method needs: networks of one structure or family, or features of one width."""
    networks = WIDTHS.get(algorithm.name, networks)[: len(networks)]
    networks = networks[:1] if algorithm.name in ONE_STRUCTURE else networks
    cohort = make_cohort(*networks, **options, features=16 if algorithm.name in NEEDS_FEATURES else 0)
    federation = cohort.federation
    algorithm.check(Setup(cohort.networks, federation.public, cohort.training, len(federation.clients)))
    return cohort
