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
    """Return one upload a structure, named by it: the mean of its clients' weights by their examples (large-N variant)."""
    cohorts: dict[ModelSpec, list[Upload]] = {}
    for upload in uploads.values():
        cohorts.setdefault(upload.network, []).append(upload)
    return {
        network.factory: Upload(
            network,
            weighted_mean([member.weights for member in members], [member.examples for member in members]),
            sum(member.examples for member in members),
        )
        for network, members in cohorts.items()
    }
