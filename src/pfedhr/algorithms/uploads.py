"""What clients of different networks send up, and what a server makes of it before it reassembles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pfedhr.algorithms.averaging import weighted_mean
from pfedhr.algorithms.private import restore
from pfedhr.models import ModelSpec
from pfedhr.parcel import Tensors
from pfedhr.reassembly import BlockBank, deposit


@dataclass(frozen=True)
class Upload:
    """What goes up: the network, its weights, and how many examples it was trained on."""

    network: ModelSpec
    weights: Tensors
    examples: int


def deposit_uploads(uploads: Mapping[str, Upload], device: torch.device) -> BlockBank:
    """Return the bank of all uploaded networks' blocks, on `device`. Raises DecompositionError for one that cannot be cut."""
    models = {owner: restore(upload.network, upload.weights).to(device) for owner, upload in uploads.items()}
    return deposit(models, torch.zeros(1, *next(iter(uploads.values())).network.shape, device=device))


def average_structures(uploads: Mapping[str, Upload]) -> dict[str, Upload]:
    """Return one upload a structure, named by it: the mean of its clients' weights by their examples (large-N variant).

    The only upload of its structure stays itself, under its client's name.
    """
    cohorts: dict[ModelSpec, dict[str, Upload]] = {}
    for client, upload in uploads.items():
        cohorts.setdefault(upload.network, {})[client] = upload
    averaged: dict[str, Upload] = {}
    for network, members in cohorts.items():
        if len(members) == 1:
            averaged |= members
        else:
            counts = [member.examples for member in members.values()]
            weights = weighted_mean([member.weights for member in members.values()], counts)
            averaged[network.factory] = Upload(network, weights, sum(counts))
    return averaged
