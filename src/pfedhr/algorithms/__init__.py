"""The methods by name. Adding one is one file and one row here."""

from pfedhr.algorithm import Algorithm
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.pfedhr import PFedHR

ALGORITHMS: dict[str, type[Algorithm]] = {
    "local": Local,
    "pfedhr": PFedHR,
}
