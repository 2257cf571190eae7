"""How much of the paper's protocol is run: all of it, or a cut that one GPU or two cores get through."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.data import DataOptions, PublicOptions
from pfedhr.experiment import ClientOptions, Experiment, PlanOptions


@dataclass(frozen=True)
class Scale:
    """An experiment that targets vary, the networks of few and of many layers, and what it leaves out of the paper's."""

    name: str
    experiment: Experiment
    smallest: str
    largest: str
    cut: str


PAPER = Scale(
    name="paper",
    experiment=Experiment(
        device="auto",
        compare_local=False,
        data=DataOptions(name="mnist", partition="iid"),
        public=PublicOptions(share=0.1),
        # One width of features before the last layer in every method, because FedGH needs it.
        clients=ClientOptions(count=12, models=("cnn1", "cnn2", "cnn3", "cnn4"), features=64),
        plan=PlanOptions(rounds=100, active=4, local_epochs=10, batch_size=10),
        algorithm=PFedHR.paper(),
    ),
    smallest="cnn1",
    largest="cnn4",
    cut="nothing, but every network has 64 features before its last layer, which FedGH needs; the paper does not say its "
    "number of rounds, batch size and weight of distillation",
)

SHORT = Scale(
    name="short",
    experiment=replace(PAPER.experiment, plan=replace(PAPER.experiment.plan, rounds=24)),
    smallest=PAPER.smallest,
    largest=PAPER.largest,
    cut="24 rounds instead of 100, of which a client takes part in eight; 64 features before every network's last layer, which "
    "FedGH needs",
)

_SMALL_NETWORKS = ("cnn1", "cnn2", "cnn3", "cnn4-quarter")

SMALL = Scale(
    name="small",
    experiment=replace(
        PAPER.experiment,
        data=replace(PAPER.experiment.data, examples=6000),
        public=PublicOptions(share=0.05),
        clients=replace(PAPER.experiment.clients, models=_SMALL_NETWORKS),
        plan=replace(PAPER.experiment.plan, rounds=10, local_epochs=4),
        algorithm=PFedHR.paper(candidates=4, tuning_batch_size=32),
    ),
    smallest="cnn1",
    largest="cnn4-quarter",
    cut="6,000 images instead of all; a twentieth of them public instead of a tenth; 10 rounds of 4 epochs instead of 100 of "
    "10; CNN4 at a quarter of its width; pFedHR and pFedClub with at most 4 candidates instead of 16, tuned in batches of 32 "
    "instead of 8; 64 features before every network's last layer, which FedGH needs",
)

SCALES = {scale.name: scale for scale in (SMALL, SHORT, PAPER)}
