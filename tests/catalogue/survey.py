"""What becomes of a network of the catalogue, and the table of all: python tests/catalogue/survey.py FILE."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from networks import Entry, catalogue
from torch import Tensor, nn

from pfedhr.inference import inference
from pfedhr.reassembly import DecompositionError, DescriptionError, decompose, describe, rebuild

LEAST_BLOCKS, LARGEST_SHARE = 4, 0.6
TELLING = 0.01
"""By how much, of the largest output, those of two inputs must differ."""


@dataclass(frozen=True)
class Finding:
    """The kinds of a network's blocks in order, or why it was refused.

    `largest`: the largest block's share of the parameters; `layer`: that of the largest single layer, which no cut divides;
    `same_draws`: whether the rebuilt network gives the same outputs also in training, with the same seed.
    """

    entry: Entry
    kinds: tuple[str, ...]
    largest: float
    layer: float
    same_draws: bool = True
    refusal: str = ""

    @property
    def as_aimed(self) -> bool:
        """Whether it was cut into at least four blocks with none over 60 % of the parameters."""
        return len(self.kinds) >= LEAST_BLOCKS and self.largest <= LARGEST_SHARE


def inputs_for(entry: Entry, count: int) -> Tensor:
    """Return `count` inputs that differ: noise, or words that every vocabulary of the catalogue has and none pads with."""
    shape = (count, *entry.example.shape[1:])
    return torch.randn(shape) if entry.example.is_floating_point() else torch.randint(2, 100, shape)


def unsettle(model: nn.Module, inputs: Tensor) -> None:
    """Move a fresh network to where training might: no weight all equal, batch norms that know what flows through them.

    Many begin with a head of zeros, branches scaled down to nothing, or maps that shrink to nothing for want of statistics.
    Their outputs hardly depend on what is inside, so that equal outputs would say nothing.
    """
    with torch.no_grad():
        for value in model.parameters():
            if torch.equal(value, value.flatten()[0].expand_as(value)):
                value.add_(torch.randn_like(value), alpha=0.1)
    norms = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    with inference(model):
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        model(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def survey(entry: Entry) -> Finding:
    """Cut, describe and rebuild the network.

    Raises AssertionError if the rebuilt one gives other outputs, or if outputs tell too little of what the network computes.
    """
    torch.manual_seed(0)
    model, inputs = entry.make(), inputs_for(entry, 4)
    unsettle(model, inputs)
    try:
        blocks = decompose(model, inputs)  # checked there: bit for bit at two batch sizes
        description = describe(model, inputs)
    except (DecompositionError, DescriptionError) as error:
        return Finding(entry, (), 1.0, 1.0, refusal=str(error))
    twin = rebuild(description.blueprint, description.weights(model))
    with inference(model, twin):
        whole = model(inputs[:2])
        assert torch.equal(whole, twin(inputs[:2])), f"{entry.name} and its twin give different outputs"
    assert (whole[0] - whole[1]).abs().max() > TELLING * whole.abs().max(), f"{entry.name} hardly heeds its inputs"
    with torch.no_grad():
        trained = [_seeded_output(network.train(), inputs) for network in (model, twin)]
    same_draws = torch.equal(*trained)
    sizes = [block.parameters for block in blocks]
    layers = [sum(value.numel() for value in layer.parameters(recurse=False)) for layer in model.modules()]
    kinds = tuple(block.op for block in blocks)
    return Finding(entry, kinds, max(sizes) / sum(sizes), max(layers) / sum(sizes), same_draws)


def _seeded_output(network: nn.Module, inputs: Tensor) -> Tensor:
    torch.manual_seed(1)
    return network(inputs)


def _names(findings: Sequence[Finding]) -> str:
    return ", ".join(finding.entry.name for finding in findings) or "none"


def table(findings: Sequence[Finding]) -> str:
    """Return the findings as Markdown."""
    aimed = sum(finding.as_aimed for finding in findings)
    refused = [finding for finding in findings if finding.refusal]
    heavy = [finding for finding in findings if not finding.as_aimed and not finding.refusal and finding.layer > LARGEST_SHARE]
    others = [finding for finding in findings if not finding.as_aimed and finding not in refused + heavy]
    rows = [
        "| network | of | input | blocks | kinds | largest block | described and rebuilt |",
        "|---|---|---|---|---|---|---|",
    ]
    for finding in findings:
        entry, kinds = finding.entry, Counter(finding.kinds)
        shape = " x ".join(map(str, entry.example.shape[1:]))
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        share = f"{finding.largest:.0%}" if kinds else ""
        outcome = f"refused: {finding.refusal.partition('. Remed')[0]}" if finding.refusal else "yes"
        rows.append(f"| {entry.name} | {entry.family} | {shape} | {len(finding.kinds) or ''} | {told} | {share} | {outcome} |")
    return "\n".join(
        [
            "# The catalogue\n",
            "Classifiers that the tests cut, describe and rebuild; `make catalogue` writes this page.\n",
            f"{aimed} of {len(findings)} ({aimed / len(findings):.0%}) are cut into at least {LEAST_BLOCKS} blocks, none over",
            f"{LARGEST_SHARE:.0%} of the parameters. The aim is 95%.\n",
            f"- A single layer over {LARGEST_SHARE:.0%}, which no cut divides: {_names(heavy)}.",
            f"- Too few blocks, or one too large, for another reason: {_names(others)}.",
            f"- Refused: {_names(refused)}.\n",
            "Before they are compared, weights that begin all equal are moved apart, and batch norms get statistics, so that",
            "outputs depend on the whole network. The rebuilt one gives the same outputs bit for bit, in evaluation and, with",
            "the same seed, in training. Exceptions in training, for they draw which branches to drop in another way than the",
            f"layer that stands for theirs, at the same rate: {_names([one for one in findings if not one.same_draws])}.\n",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    Path(sys.argv[1]).write_text(table([survey(entry) for entry in catalogue()]))
