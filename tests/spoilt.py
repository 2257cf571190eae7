"""Ways to spoil a reply that stays well packed, and runs in which one is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from pfedhr.algorithm import Algorithm
from pfedhr.federate import RoundResult, Schedule, federate
from pfedhr.in_process import Cohort, InProcess
from pfedhr.transport import Admit, Order, Report

Spoil = Callable[[Any, dict[str, Tensor]], None]
"""Changes a reply's structure and tensors, by their paths, in place."""


def floats(tensors: Mapping[str, Tensor]) -> list[str]:
    return [name for name, value in tensors.items() if value.is_floating_point() and value.dim()]


def not_a_number(tree: Any, tensors: dict[str, Tensor]) -> None:
    tensors[floats(tensors)[-1]].view(-1)[0] = torch.nan


def infinite(tree: Any, tensors: dict[str, Tensor]) -> None:
    tensors[floats(tensors)[0]].view(-1)[0] = torch.inf


def minus_infinite(tree: Any, tensors: dict[str, Tensor]) -> None:
    """As masks are, but among the weights."""
    tensors[floats(tensors)[-1]].view(-1)[0] = -torch.inf


def longer(tree: Any, tensors: dict[str, Tensor]) -> None:
    for name in floats(tensors):
        tensors[name] = torch.cat([tensors[name]] * 2)


def flat(tree: Any, tensors: dict[str, Tensor]) -> None:
    name = max(floats(tensors), key=lambda one: tensors[one].dim())
    tensors[name] = tensors[name].flatten()[:1]


def doubled(tree: Any, tensors: dict[str, Tensor]) -> None:
    name = floats(tensors)[0]
    tensors[name] = tensors[name].double()


def narrow(tree: Any, tensors: dict[str, Tensor]) -> None:
    """Floats of one byte, with which torch computes next to nothing."""
    for name in floats(tensors):
        tensors[name] = tensors[name].to(torch.float8_e5m2)


def imaginary(tree: Any, tensors: dict[str, Tensor]) -> None:
    for name in floats(tensors):
        tensors[name] = tensors[name].to(torch.complex64)


def empty(tree: Any, tensors: dict[str, Tensor]) -> None:
    for name, value in tensors.items():
        tensors[name] = value[:0] if value.dim() else value


def renamed(tree: Any, tensors: dict[str, Tensor]) -> None:
    """Another name for a tensor, where tensors have names."""
    path = next((name for name in floats(tensors) if name.count("/") > 1), None)
    if path is None:
        return
    *way, last = path.split("/")[1:]
    for step in way:
        tree = tree[step]
    tree["stray"] = tree.pop(last)
    tensors["/".join(["value", *way, "stray"])] = tensors.pop(path)


def of_no_examples(tree: Any, tensors: dict[str, Tensor]) -> None:
    tree |= {"examples": 0} if "examples" in tree else {}


def of_all_examples(tree: Any, tensors: dict[str, Tensor]) -> None:
    tree |= {"examples": 10**400} if "examples" in tree else {}


def of_other_classes(tree: Any, tensors: dict[str, Tensor]) -> None:
    if "value/classes" in tensors:
        tensors["value/classes"] = tensors["value/classes"] + 2
    if "classes" in tree and "value/classes" not in tensors:
        tree["classes"] = [-1]


def of_uncounted_classes(tree: Any, tensors: dict[str, Tensor]) -> None:
    if "value/counts" in tensors:
        tensors["value/counts"] = -tensors["value/counts"]


def of_overcounted_classes(tree: Any, tensors: dict[str, Tensor]) -> None:
    """One class mean that would outweigh all others'."""
    if "value/counts" in tensors:
        tensors["value/counts"] = torch.full_like(tensors["value/counts"], 2**62)


def of_another_structure(tree: Any, tensors: dict[str, Tensor]) -> None:
    """A name that the blueprint beside it does not have."""
    tree |= {"structure": "0" * 64} if "structure" in tree else {}


def of_strange_buffers(tree: Any, tensors: dict[str, Tensor]) -> None:
    tree |= {"buffers": ["stray"]} if "buffers" in tree else {}


def of_an_unknown_structure(tree: Any, tensors: dict[str, Tensor]) -> None:
    tree |= {"structure": "0" * 64, "blueprint": None} if "structure" in tree else {}


SPOILT: list[Spoil] = [
    *(not_a_number, infinite, minus_infinite, longer, flat, doubled, narrow, imaginary, empty, renamed),
    *(of_no_examples, of_all_examples, of_other_classes, of_uncounted_classes, of_overcounted_classes),
    *(of_another_structure, of_strange_buffers, of_an_unknown_structure),
]


def spoilt(reply: bytes, spoil: Spoil) -> bytes:
    size = int.from_bytes(reply[:8], "little")
    tree = json.loads(json.loads(reply[8 : 8 + size])["__metadata__"]["parcel"])
    tensors = safetensors.torch.load(reply)
    spoil(tree, tensors)
    return safetensors.torch.save(tensors, {"parcel": json.dumps(tree, separators=(",", ":"))})


def of_size(size: float) -> Spoil:
    def spoil(tree: Any, tensors: dict[str, Tensor]) -> None:
        for name in floats(tensors):
            tensors[name] = torch.full_like(tensors[name], size)

    return spoil


class Tapped(InProcess):
    """The engine, with one client's reply of the first round spoilt on its way; it keeps who was to admit it, and what."""

    spoil: Spoil | None = None

    def exchange(self, outbox: Mapping[str, Order], admit: Admit) -> dict[str, Report]:
        def on_the_way(replies: Mapping[str, bytes]) -> Mapping[str, str]:
            self.admit, self.replies = admit, dict(replies)
            if self.spoil and outbox["client01"].round == 1:
                self.replies["client01"] = spoilt(replies["client01"], self.spoil)
            return admit(self.replies)

        return super().exchange(outbox, on_the_way)


def run(
    algorithm: Algorithm, cohort: Cohort, engine: InProcess, rounds: int = 2
) -> tuple[list[RoundResult], dict[str, bytes | None]]:
    clients = list(cohort.networks)
    results = list(federate(algorithm, engine, engine.server_view, clients, Schedule(rounds, len(clients)), 0))
    return results, {client: engine.state(client) for client in clients}
