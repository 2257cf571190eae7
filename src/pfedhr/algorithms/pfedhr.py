"""pFedHR: the server makes teachers: of blocks of all uploads reassembled, or the tuned mean of those of one structure.

J. Wang, X. Yang, S. Cui, L. Che, L. Lyu, D. Xu, F. Ma, "Towards Personalized Federated Learning via Heterogeneous Model
Reassembly", NeurIPS 2023, arXiv 2308.08643. Up: the client's weights. Down: the teacher, when the client next takes part; with
`teachers` = structure also to clients never heard of, which are sent those of all structures and take their own.

The paper's form is the preset `paper`; docs/method.md has the default's departures and their evidence. Departures of both,
where the paper leaves things open: groups by k-medoids; a stitch only between blocks that were not neighbours; `light`
stitches by default; a client keeps its last teacher; its own unchanged network is never its teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pfedhr.algorithm import ClientView, Metrics, SettingError, Setup
from pfedhr.algorithms.lessons import Lesson, Taught, Teachers
from pfedhr.algorithms.private import common_weights
from pfedhr.algorithms.reassembling import Reassembling
from pfedhr.algorithms.teacher import weights_in
from pfedhr.algorithms.uploads import Upload, describe_network, put_in
from pfedhr.parcel import Tensors
from pfedhr.reassembly import cut

PAPER: Mapping[str, Any] = {
    "distil_weight": 0.2,
    "decline_below": 0.0,
    "tuning_epochs": 3,
    "tuning_batch_size": 8,
    "teachers": "reassembled",
    "tuning_targets": "labels",
    "donors": "active",
    "tuned_blocks": 0,
    "stitch_start": "random",
    "start": "own",
}
"""The paper's form, one preset away from the better one; docs/method.md has the evidence for each difference."""


@dataclass(frozen=True)
class PFedHR(Reassembling):
    """Personalised federated learning by heterogeneous model reassembly."""

    groups: int = 4
    """How many groups the blocks form (K); fewer are tried where no candidate exists."""
    distil_weight: float = 1.0
    """Weight of the teacher in the client's loss (lambda)."""
    decline_below: float = 0.5
    """A client declines what tells its own classes apart, beyond chance, less than this share as well as itself: a teacher, or
    what it has learnt beside one; 0 = none."""
    tuning_epochs: int = 10
    """Epochs of tuning on the public data."""
    tuning_batch_size: int = 32
    """Batch size of the tuning."""
    start: Literal["own", "teacher"] = "teacher"
    """What private training starts from: the client's own weights, or its network as the server has tuned it, if that came."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": PAPER}
    name = "pfedhr"
    uncovered = None

    @classmethod
    def paper(cls, **changes: Any) -> PFedHR:
        """Return the method in the paper's form, but for `changes`."""
        return cls(**{**PAPER, **changes})

    def check(self, setup: Setup) -> None:
        """Raise what Reassembling does, and SettingError for a start that no teacher can give."""
        super().check(setup)
        if self.start == "teacher" and self.teachers == "reassembled":
            raise SettingError(
                'algorithm.start = "teacher": training can start from a network of one\'s own structure only, and a '
                'reassembled teacher is another; set algorithm.teachers = "own" or "structure"'
            )

    def init_client(self, view: ClientView) -> Taught:
        """Return what Teaching does, but weights that all of a structure begin with where they are averaged later."""
        if self.teachers != "structure":
            return super().init_client(view)
        return Taught(common_weights(view.network, view.seed), None)

    def message(self, server: Teachers, client: str) -> Lesson:
        """Return the teacher that waits for the client; or, of structures, its own, or all to one that was never heard of."""
        if self.teachers != "structure":
            return super().message(server, client)
        sent, made = server.structures.uploads.get(client), server.structures.teachers
        known = tuple(sorted(server.known))
        return Lesson(None, known, made) if sent is None else Lesson(made.get(sent.structure), known)

    def client_step(self, state: Taught, message: Lesson, view: ClientView) -> tuple[Taught, Upload, Metrics]:
        """Do what Teaching does, with the teacher of the client's structure among those offered."""
        if message.offered:
            structure = describe_network(view.network, view.train.ready(view.device).inputs.dtype).blueprint.hash
            message = Lesson(message.offered.get(structure), message.known)
        return super().client_step(state, message, view)

    def _begin(self, state: Taught, message: Lesson, view: ClientView) -> Tensors:
        """Return the network of the client's structure as the server has tuned it, if it shall start from there and it came."""
        if self.start == "own" or message.teacher is None:
            return state.weights
        description = describe_network(view.network, view.train.ready(view.device).inputs.dtype)
        tuned = weights_in(message.teacher, cut(description.blueprint, self.most_blocks))
        return state.weights if tuned is None else put_in(view.network, description, state.weights, tuned)
