"""What a teacher that knows nothing brings: pFedHR's clients beside one that finds every class equally likely.

    python scripts/uniform_teacher.py SET DIR [SEEDS]

It runs the IID part of Table 2 at the small scale on the data set SET, whose files are in DIR, for `local` and for this teacher
at pFedHR's weight, and prints both means over clients and seeds with the paired difference. Such a teacher is label smoothing:
what it gains, pFedHR can gain without any knowledge of others.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from pfedhr.algorithm import ClientView, Metrics
from pfedhr.algorithms.local import Local
from pfedhr.algorithms.own import Nothing, Own
from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.private import train_privately
from pfedhr.federate import federate
from pfedhr.in_process import InProcess, Workers
from pfedhr.launch import prepare
from pfedhr.learning import distil
from pfedhr.report.comparison import differences, points
from pfedhr.reproduction import SCALES, TARGETS
from pfedhr.reproduction.targets import settings_of
from pfedhr.statistics import paired_interval
from pfedhr.study import Cell, cells_of

TEACHER = PFedHR.paper()


@dataclass(frozen=True)
class UniformTeacher(Local):
    """Learning alone beside a teacher that finds every class equally likely, from the second round on.

    As with pFedHR, nobody has a teacher in the first round; unlike there, everybody has one in the second.
    """

    def client_step(self, state: Own, message: Nothing, view: ClientView) -> tuple[Own, Nothing, Metrics]:
        """Train beside the teacher."""

        def term(logits: Tensor, batch: Tensor) -> Tensor:
            targets = torch.zeros_like(logits).log_softmax(1)
            return TEACHER.distil_weight * distil(logits, targets, TEACHER.temperature)

        weights, metrics = train_privately(view, state.weights, term if view.round > 1 else None)
        return Own(weights), Nothing(), metrics


def accuracies(cell: Cell, method: Local) -> dict[str, float]:
    """Return every client's accuracy after the last round."""
    cohort = prepare(cell.experiment)
    with Workers(cohort) as workers:
        engine = InProcess(method, workers)
        clients = list(cohort.federation.clients)
        *_, last = federate(method, engine, engine.server_view, clients, cell.experiment.plan.schedule, cell.seed)
    return {client: scores.own.accuracy for client, scores in last.scores.items()}


def main(name: str, directory: str, seeds: str = "0,1,2,3,4") -> None:
    """Print both means and their difference."""
    settings = settings_of(TARGETS["table2"], SCALES["small"], name, directory)[:1]
    cells = {cell.seed: cell for cell in cells_of(settings, list(map(int, seeds.split(",")))) if cell.method == "local"}
    found = {kind: {seed: accuracies(cell, kind()) for seed, cell in cells.items()} for kind in (Local, UniformTeacher)}
    for kind, rows in found.items():
        values = [accuracy for row in rows.values() for accuracy in row.values()]
        print(f"{name}, IID, {kind.__name__}: {100 * sum(values) / len(values):.2f}")
    print(f"difference: {points(paired_interval(differences(found[UniformTeacher], found[Local])))}")


if __name__ == "__main__":
    main(*sys.argv[1:])
