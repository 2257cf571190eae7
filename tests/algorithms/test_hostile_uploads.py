"""Uploads whose bytes were tampered with, through all that a server does with them before it tunes."""

from __future__ import annotations

import functools
import json
import random
from typing import Any

import pytest
import torch
from bounds import LINUX, memory_within, seconds_within
from toy import make_cohort

from pfedhr.algorithms.pfedhr import PFedHR
from pfedhr.algorithms.private import initial_weights
from pfedhr.algorithms.uploads import Upload, deposit_sources, learn_structures, sources_of, upload
from pfedhr.federate import Admission
from pfedhr.in_process import sequential
from pfedhr.parcel import ParcelError, pack, unpack
from pfedhr.reassembly import DecompositionError

VALUES = (
    None,
    True,
    -1,
    0,
    1.5,
    2**40,
    2**63,
    10**400,
    float("nan"),
    "F64",
    "I8",
    "BOOL",
    "../x",
    "",
    [],
    {},
    [[0, 1]],
    [-1, 4],
    [0, 2**62, 2**62],
    [1] * 65,
)


def receive(admission: Admission, data: bytes) -> None:
    """Take one upload as the server does, up to its blocks; the second time without what refuses whatever a network raises."""
    admission({"client00": data})
    uploads = {"client00": unpack(Upload, data)}
    known = learn_structures({}, uploads)
    deposit_sources(sources_of(uploads, known, 0), torch.device("cpu"))


def packed(network: str) -> bytes:
    view = make_cohort(network, clients=1).client_view("client00", 1)
    return pack(upload(view.network, initial_weights(view), view.train.ready(view.device).inputs, ()))


def change(draw: random.Random, tree: Any) -> Any:
    """Return a JSON tree with one place of it changed, removed or made double."""
    if not isinstance(tree, dict | list) or not tree or draw.random() < 0.15:
        return draw.choice(VALUES)
    if isinstance(tree, list):
        at = draw.randrange(len(tree))
        return draw.choice(
            [[*tree[:at], change(draw, tree[at]), *tree[at + 1 :]], tree[:at] + tree[at + 1 :], [*tree, tree[at]]]
        )
    key = draw.choice(sorted(tree))
    rest = {name: value for name, value in tree.items() if name != key}
    return draw.choice([rest | {key: change(draw, tree[key])}, rest, rest | {f"{key}x": tree[key]}])


def tampered(draw: random.Random, original: bytes) -> bytes:
    """Return the bytes with a place of their header, their structure or the blueprint changed, cut, or flipped anywhere."""
    size = int.from_bytes(original[:8], "little")
    header, body = json.loads(original[8 : 8 + size]), original[8 + size :]
    kind = draw.randrange(6)
    if kind == 0:
        return original[: draw.randrange(len(original))]
    if kind == 1:
        at = draw.randrange(len(original) if draw.random() < 0.5 else 8 + size)
        return original[:at] + bytes([draw.randrange(256)]) + original[at + 1 :]
    if kind == 2:
        header = change(draw, header)
    else:
        tree = json.loads(header["__metadata__"]["parcel"])
        if kind == 3:
            tree = change(draw, tree)
        elif kind == 4:
            tree["blueprint"]["graph"] = json.dumps(change(draw, json.loads(tree["blueprint"]["graph"])))
        else:
            at = draw.randrange(0, len(body) - 4, 4)
            body = body[:at] + bytes.fromhex(draw.choice(["0000c07f", "0000807f", "000080ff", "ffff7f7f"])) + body[at + 4 :]
        header["__metadata__"]["parcel"] = json.dumps(tree)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def attack(count: int, seed: int) -> None:
    """Receive tampered uploads: each gives blocks or is refused in words, within a second and a GiB."""
    draw = random.Random(seed)
    originals = [packed(network) for network in ("cnn1", "vit")]
    method, view = PFedHR(), sequential(functools.partial(make_cohort("cnn1", clients=1).server_view, 1))
    admission = Admission(method, method.init_server(view), view)
    for original in originals:
        receive(admission, original)
    refused = 0
    with memory_within(2**30):
        for _ in range(count):
            data = tampered(draw, draw.choice(originals))
            with seconds_within(1, data[:4000]):
                try:
                    receive(admission, data)
                except (ParcelError, DecompositionError):
                    refused += 1
    assert refused > count / 2


def test_tampered_uploads_are_refused() -> None:
    attack(1_000, 0)


@pytest.mark.skipif(not LINUX.exists(), reason="only Linux forgets the most memory that a process has held")
def test_memory_beyond_a_bound_is_seen_whatever_was_held_before() -> None:
    taken = torch.ones(2**27)  # half a GiB
    del taken
    with pytest.raises(AssertionError, match="bytes of memory"), memory_within(2**27):
        torch.ones(2**26)


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_a_hundred_thousand_tampered_uploads_are_refused() -> None:
    attack(100_000, 1)
