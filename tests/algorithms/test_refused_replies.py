"""A reply that is well packed and makes no sense is refused alone, in every method, and its client stays as it was."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import safetensors.torch
import torch
from methods import METHODS, suited
from torch import Tensor
from toy import equal

from pfedhr.algorithm import Algorithm
from pfedhr.algorithms import ALGORITHMS
from pfedhr.algorithms.held import Shared
from pfedhr.algorithms.homogeneous import Trained
from pfedhr.algorithms.own import Nothing
from pfedhr.federate import Admission, RoundResult, Schedule, federate
from pfedhr.in_process import Cohort, InProcess, Workers
from pfedhr.parcel import pack
from pfedhr.transport import Admit, Order, Report

TELLING = [method for method in METHODS if method.values[0].reply_type is not Nothing]
"""What says nothing cannot be spoilt."""


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


class Deaf(InProcess):
    """The engine that does not ask one client in the first round."""

    def exchange(self, outbox: Mapping[str, Order], admit: Admit) -> dict[str, Report]:
        asked = {client: order for client, order in outbox.items() if client != "client01" or order.round > 1}
        return super().exchange(asked, admit)


def run(
    algorithm: Algorithm, cohort: Cohort, engine: InProcess, rounds: int = 2
) -> tuple[list[RoundResult], dict[str, bytes | None]]:
    clients = list(cohort.networks)
    results = list(federate(algorithm, engine, engine.server_view, clients, Schedule(rounds, len(clients)), 0))
    return results, {client: engine.state(client) for client in clients}


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("algorithm", TELLING)
def test_a_reply_of_no_use_is_refused_alone(algorithm: Algorithm, rounds: int) -> None:
    """In the first round, when the server knows nothing yet, and later."""
    cohort = suited(algorithm, "cnn1", "mlp", clients=3)
    engine = Tapped(algorithm, Workers(cohort))
    run(algorithm, cohort, engine, rounds)
    assert not engine.admit(engine.replies)
    tried = 0
    for spoil in SPOILT:
        replies = engine.replies | {"client01": spoilt(engine.replies["client01"], spoil)}
        if replies != engine.replies:
            tried += 1
            assert engine.admit(replies).keys() == {"client01"}, spoil.__name__
    assert tried >= 6


@pytest.mark.parametrize("algorithm", TELLING)
def test_a_refused_reply_is_as_if_its_client_had_not_been_asked(algorithm: Algorithm) -> None:
    cohort = suited(algorithm, "cnn1", "mlp", clients=3)
    with Workers(cohort) as workers:
        expected, states = run(algorithm, cohort, Deaf(algorithm, workers))
        engine = Tapped(algorithm, workers)
        engine.spoil = not_a_number
        results, states_after = run(algorithm, cohort, engine)
    assert [set(result.refused) for result in results] == [{"client01"}, set()]
    assert [result.progress.server for result in results] == [result.progress.server for result in expected]
    assert states_after == states


def test_the_reason_is_told_in_words(caplog: pytest.LogCaptureFixture) -> None:
    algorithm = ALGORITHMS["fedavg"]()
    cohort = suited(algorithm, "mlp", clients=3)
    with Workers(cohort) as workers:
        engine = Tapped(algorithm, workers)
        engine.spoil = not_a_number
        results, _ = run(algorithm, cohort, engine)
    assert results[0].refused == {"client01": "it holds values that are not finite"}
    assert "the reply of client client01 in round 1 is refused: it holds values that are not finite" in caplog.text


def test_the_form_that_most_clients_send_is_the_one_that_counts_before_there_is_a_shared_one() -> None:
    """Even where the odd one is the first by name."""
    algorithm = ALGORITHMS["fedavg"]()
    cohort = suited(algorithm, "mlp", clients=3)
    engine = InProcess(algorithm, Workers(cohort))
    view, server = engine.server_view(1), algorithm.init_server(engine.server_view(0))
    replies = {}
    for client in cohort.networks:
        seen = cohort.client_view(client, 1)
        _, replies[client], _ = algorithm.client_step(algorithm.init_client(seen), algorithm.message(server, client), seen)
    odd = {name: value.double() for name, value in replies["client00"].weights.items()}
    replies["client00"] = dataclasses.replace(replies["client00"], weights=odd)
    assert algorithm.faults(server, replies, view).keys() == {"client00"}


def test_minus_infinity_has_its_place_in_masks() -> None:
    algorithm = ALGORITHMS["fedavg"]()
    cohort = suited(algorithm, "mlp", clients=1)
    view, server = InProcess(algorithm, Workers(cohort)).server_view(1), Shared(None)
    weights = {"mask": torch.tensor([0.0, -torch.inf]), "none": torch.zeros(0), "count": torch.tensor(3)}
    admission = Admission(algorithm, server, view)
    assert not admission({"client00": pack(Trained(weights, 5))})
    assert equal(admission.taken["client00"].weights, weights)
    for value in (torch.inf, torch.nan):
        for dtype in (torch.float16, torch.bfloat16, torch.float8_e5m2):
            broken = {"mask": torch.tensor([0.0, value]).to(dtype)}
            assert admission({"client00": pack(Trained(broken, 5))})
            assert not admission.taken
