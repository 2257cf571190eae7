"""What clients of a small federation upload, untrained, and the paper's form of `pfedhr` in small."""

from __future__ import annotations

import torch

from pfedhr.algorithms.lessons import Teachers
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.private import initial_weights, restore
from pfedhr.algorithms.teacher import Teacher, draft
from pfedhr.algorithms.uploads import Source, Upload, deposit_sources, learn_structures, sources_of, upload
from pfedhr.in_process import Cohort
from pfedhr.reassembly import Recipe

SMALL = PFedHR.paper(groups=3, candidates=4, tuning_epochs=1, probe=8)
NOTHING = Teachers({}, {}, {}, {})


def upload_of(cohort: Cohort, client: str) -> Upload:
    """The client's untrained network as it sends it the first time."""
    view = cohort.client_view(client, 1)
    return upload(view.network, initial_weights(view), view.train.ready(view.device).inputs, ())


def uploads_of(cohort: Cohort) -> dict[str, Upload]:
    return {client: upload_of(cohort, client) for client in cohort.networks}


def sources(cohort: Cohort) -> dict[str, Source]:
    uploads = uploads_of(cohort)
    return sources_of(uploads, learn_structures({}, uploads), 0)


def initial_network(cohort: Cohort, client: str) -> torch.nn.Module:
    view = cohort.client_view(client, 1)
    return restore(view.network, initial_weights(view))


def own_chain(cohort: Cohort, client: str) -> Teacher:
    """The client's own network, reassembled."""
    held = sources(cohort)
    bank = deposit_sources(held, torch.device("cpu"))
    return draft(Recipe(bank.chain(client)), bank, held, "light", 1)
