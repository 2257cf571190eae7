"""The methods by name. Adding one is one file and one row here."""

from pfedhr.algorithm import Algorithm
from pfedhr.algorithms.fccl import FCCL
from pfedhr.algorithms.fedavg import FedAvg
from pfedhr.algorithms.feddf import FedDF
from pfedhr.algorithms.feddistill import FedDistill
from pfedhr.algorithms.fedgh import FedGH
from pfedhr.algorithms.fedkd import FedKD
from pfedhr.algorithms.fedkemf import FedKEMF
from pfedhr.algorithms.fedmd import FedMD
from pfedhr.algorithms.fedproto import FedProto
from pfedhr.algorithms.fedprox import FedProx
from pfedhr.algorithms.fedtgp import FedTGP
from pfedhr.algorithms.fml import FML
from pfedhr.algorithms.heterofl import HeteroFL
from pfedhr.algorithms.lg_fedavg import LGFedAvg
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.local_public import LocalPublic
from pfedhr.algorithms.per_fedavg import PerFedAvg
from pfedhr.algorithms.pfedbayes import PFedBayes
from pfedhr.algorithms.pfedclub import PFedClub
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.pfedme import PFedMe

_METHODS: tuple[type[Algorithm], ...] = (
    *(Local, LocalPublic),
    *(FedAvg, FedProx, PerFedAvg, PFedMe, PFedBayes),
    *(LGFedAvg, FedProto, FedTGP, FedGH),
    *(FedDistill, FedMD, FCCL),
    *(FML, FedKEMF, FedKD),
    *(FedDF, HeteroFL),
    *(PFedHR, PFedClub),
)
ALGORITHMS: dict[str, type[Algorithm]] = {method.name: method for method in _METHODS}
