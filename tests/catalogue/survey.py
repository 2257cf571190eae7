"""What becomes of a network of the catalogue, and the table of all: python tests/catalogue/survey.py FILE."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from networks import Entry, catalogue

from pfedhr.inference import inference
from pfedhr.reassembly import DecompositionError, DescriptionError, decompose, describe, rebuild

LEAST_BLOCKS, LARGEST_SHARE = 4, 0.6


@dataclass(frozen=True)
class Finding:
    """The kinds of a network's blocks in order, or why it was refused.

    `largest`: the largest block's share of the parameters; `layer`: that of the largest single layer, which no cut divides.
    """

    entry: Entry
    kinds: tuple[str, ...]
    largest: float
    layer: float
    refusal: str = ""

    @property
    def as_aimed(self) -> bool:
        """Whether it was cut into at least four blocks with none over 60 % of the parameters."""
        return len(self.kinds) >= LEAST_BLOCKS and self.largest <= LARGEST_SHARE


def survey(entry: Entry) -> Finding:
    """Cut, describe and rebuild the network. Raises AssertionError if the rebuilt one gives other outputs."""
    torch.manual_seed(0)
    model = entry.make()
    try:
        blocks = decompose(model, entry.example)  # checked there: bit for bit at two batch sizes
        description = describe(model, entry.example)
    except (DecompositionError, DescriptionError) as error:
        return Finding(entry, (), 1.0, 1.0, str(error))
    twin = rebuild(description.blueprint, description.weights(model))
    floating = entry.example.is_floating_point()
    inputs = torch.randn(2, *entry.example.shape[1:]) if floating else entry.example.expand(2, -1)
    with inference(model, twin):
        assert torch.equal(model(inputs), twin(inputs)), f"{entry.name} and its twin give different outputs"
    sizes = [block.parameters for block in blocks]
    layers = [sum(value.numel() for value in layer.parameters(recurse=False)) for layer in model.modules()]
    return Finding(entry, tuple(block.op for block in blocks), max(sizes) / sum(sizes), max(layers) / sum(sizes))


def table(findings: Sequence[Finding]) -> str:
    """Return the findings as Markdown."""
    aimed = sum(finding.as_aimed for finding in findings)
    refused = sum(bool(finding.refusal) for finding in findings)
    heavy = sum(not finding.as_aimed and not finding.refusal and finding.layer > LARGEST_SHARE for finding in findings)
    rows = [
        "| network | of | input | blocks | kinds | largest block | described and rebuilt |",
        "|---|---|---|---|---|---|---|",
    ]
    for finding in findings:
        entry, kinds = finding.entry, Counter(finding.kinds)
        shape = " x ".join(map(str, entry.example.shape[1:]))
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        share = f"{finding.largest:.0%}" if kinds else ""
        outcome = f"refused: {finding.refusal.partition('. Remedies')[0]}" if finding.refusal else "yes"
        rows.append(f"| {entry.name} | {entry.family} | {shape} | {len(finding.kinds) or ''} | {told} | {share} | {outcome} |")
    return "\n".join(
        [
            "# The catalogue\n",
            "Classifiers that the tests cut, describe and rebuild; `make catalogue` writes this page.\n",
            f"{aimed} of {len(findings)} ({aimed / len(findings):.0%}) are cut into at least {LEAST_BLOCKS} blocks, none over",
            f"{LARGEST_SHARE:.0%} of the parameters. {heavy} of the others have a single layer over that, which no cut",
            f"divides; {refused} refused.\n",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    Path(sys.argv[1]).write_text(table([survey(entry) for entry in catalogue()]))
