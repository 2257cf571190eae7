"""What the two sides keep, and what goes down, in methods whose clients learn from teachers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar

from torch import Tensor

from pfedhr.algorithms.teacher import Teacher
from pfedhr.algorithms.uploads import Upload
from pfedhr.parcel import Tensors
from pfedhr.reassembly import Blueprint

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Structures:
    """The clients' last uploads, and the tuned mean of each structure by its hash, where a method keeps one for all of them."""

    uploads: dict[str, Upload] = field(default_factory=dict)
    teachers: dict[str, Teacher] = field(default_factory=dict)

    def heard(self, replies: Mapping[str, Upload]) -> Structures:
        """Return what is kept once these came, whose blueprints are kept elsewhere."""
        sent = {client: replace(reply, blueprint=None) for client, reply in replies.items()}
        return replace(self, uploads=dict(sorted({**self.uploads, **sent}.items())))

    def fellows(self, sent: Collection[Upload]) -> dict[str, Upload]:
        """Return the last uploads of all clients whose structure is that of one of these."""
        structures = {one.structure for one in sent}
        return {client: kept for client, kept in self.uploads.items() if kept.structure in structures}

    def taught(self, teachers: Mapping[str, Teacher]) -> Structures:
        """Return what is kept once structures have new teachers: those of structures that some client still has."""
        used = {one.structure for one in self.uploads.values()}
        return replace(self, teachers=among(used, {**self.teachers, **teachers}))


def among(structures: Collection[str], by_structure: Mapping[str, Kept]) -> dict[str, Kept]:
    """Return what is of one of these structures, in the order of hashes.

    A client may come with another network at any time: a state that kept what none has any more would never end growing.
    """
    return {structure: one for structure, one in sorted(by_structure.items()) if structure in structures}


@dataclass(frozen=True)
class Teachers:
    """The server's state: which teacher waits for which client, by its name in `made`; and the structures of networks by hash.

    Clients may share a teacher, so each is kept once, for as long as one waits for it. `said`: the softmax (n, classes) of
    clients' last uploads on the public data, where a method goes on hearing clients that do not take part. `labels`: whether
    public labels may teach by now. `last`: the structure of each client's last upload.
    """

    waiting: dict[str, str]
    made: dict[str, Teacher]
    known: dict[str, Blueprint]
    said: Tensors
    structures: Structures = field(default_factory=Structures)
    labels: bool = False
    last: dict[str, str] = field(default_factory=dict)

    def after(
        self,
        replies: Mapping[str, Upload],
        new: Mapping[str, Teacher],
        known: dict[str, Blueprint],
        said: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Teachers:
        """Return the state once the clients that replied have had their teachers, `new` ones wait for some, and some `said`.

        `known`: the blueprints of all structures heard of, of which those are kept that some client still has.
        """
        names = {client: f"{teacher.round}: {teacher.recipe}" for client, teacher in new.items()}
        waiting = {client: name for client, name in self.waiting.items() if client not in replies} | names
        made = self.made | {names[client]: teacher for client, teacher in new.items()}
        kept = {name: made[name] for name in sorted(set(waiting.values()))}
        last = dict(sorted({**self.last, **{client: reply.structure for client, reply in replies.items()}}.items()))
        held, heard = among(set(last.values()), known), dict(sorted({**self.said, **said}.items()))
        return replace(self, waiting=waiting, made=kept, known=held, said=heard, last=last)


@dataclass(frozen=True)
class Taught:
    """A client's state: its weights, and the last teacher it took."""

    weights: Tensors
    teacher: Teacher | None


@dataclass(frozen=True)
class Lesson:
    """What goes down: a teacher, if a new one waits; and the hashes of the structures that the server knows by now.

    `offered`: teachers by the hash of their structure, for a client whose structure the server does not know yet.
    """

    teacher: Teacher | None
    known: tuple[str, ...]
    offered: dict[str, Teacher] = field(default_factory=dict)
