"""Personalised federated learning among clients whose neural networks differ.

The names below are the public ones. They are imported when first used, for torch takes seconds and `pfedhr --help` needs none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pfedhr.algorithms import ALGORITHMS as ALGORITHMS
    from pfedhr.data import ClientData as ClientData
    from pfedhr.data import Dataset as Dataset
    from pfedhr.data import Examples as Examples
    from pfedhr.data import Federation as Federation
    from pfedhr.data import Unlabelled as Unlabelled
    from pfedhr.errors import PfedhrError as PfedhrError
    from pfedhr.experiment import Experiment as Experiment
    from pfedhr.experiment_file import load_experiment as load_experiment
    from pfedhr.federate import Schedule as Schedule
    from pfedhr.flower.errands import Participant as Participant
    from pfedhr.in_process import Cohort as Cohort
    from pfedhr.in_process import InProcess as InProcess
    from pfedhr.in_process import Workers as Workers
    from pfedhr.learning import Training as Training
    from pfedhr.models import ModelSpec as ModelSpec
    from pfedhr.reassembly import Block as Block
    from pfedhr.reassembly import BlockBank as BlockBank
    from pfedhr.reassembly import BlockRef as BlockRef
    from pfedhr.reassembly import Blueprint as Blueprint
    from pfedhr.reassembly import Recipe as Recipe
    from pfedhr.reassembly import assemble as assemble
    from pfedhr.reassembly import block_similarity as block_similarity
    from pfedhr.reassembly import coarsen as coarsen
    from pfedhr.reassembly import decompose as decompose
    from pfedhr.reassembly import deposit as deposit
    from pfedhr.reassembly import describe as describe
    from pfedhr.reassembly import group as group
    from pfedhr.reassembly import match as match
    from pfedhr.reassembly import profile as profile
    from pfedhr.reassembly import propose as propose
    from pfedhr.reassembly import rebuild as rebuild
    from pfedhr.reassembly import register as register
    from pfedhr.seeding import generator as generator

_HOMES = {
    "algorithms": ("ALGORITHMS",),
    "data": ("ClientData", "Dataset", "Examples", "Federation", "Unlabelled"),
    "errors": ("PfedhrError",),
    "experiment": ("Experiment",),
    "experiment_file": ("load_experiment",),
    "federate": ("Schedule",),
    "flower.errands": ("Participant",),
    "learning": ("Training",),
    "models": ("ModelSpec",),
    "reassembly": (
        *("Block", "BlockBank", "BlockRef", "Blueprint", "Recipe", "assemble", "block_similarity", "coarsen", "decompose"),
        *("deposit", "describe", "group", "match", "profile", "propose", "rebuild", "register"),
    ),
    "seeding": ("generator",),
    "in_process": ("Cohort", "InProcess", "Workers"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives."""
    if name not in _HOME:
        raise AttributeError(f"module 'pfedhr' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pfedhr.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
