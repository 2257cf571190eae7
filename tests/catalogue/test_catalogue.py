"""Every network of the catalogue is cut, described and rebuilt bit for bit, or refused with the reason that is expected."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from networks import Entry, catalogue
from survey import survey

ENTRIES = catalogue()
QUICK = {
    *("resnet18", "shufflenet_v2_x1_0", "squeezenet1_1", "tinynet_e", "lcnet_050", "ViT", "ResNet", "BERT", "ALBERT"),
    *(entry.name for entry in ENTRIES if entry.family == "handwritten"),
}
REFUSED: dict[str, str] = {
    "branch on values": r"forward\(\) takes gt as a condition",
    "DINOv2": r"never uses network\.dinov2\.embeddings\.mask_token",
    "DeBERTa-v2": r"the method 'bool' of a tensor is not one that a blueprint may call",
    "ConvBERT": r"the method '__and__' of a tensor is not one that a blueprint may call",
    "XLNet": r"computes something else in training than in evaluation",
    "FNet": r"the function .*fft.* is not one that a blueprint may call",
}
"""What is refused, and in which words."""
HEAVY = {
    *("alexnet", "vgg11_bn", "vgg16", "mobilenetv3_small_050", "tinynet_e", "lcnet_050"),
    *("functional LeNet", "LSTM classifier", "convolution and GRU on signals"),
}
"""What has over 60 % of its parameters in a single layer."""
UNCUT = {"GPT-2", "Llama"}
"""What uses its inputs again at the end, to find the last word, so that one tensor never flows alone: one block."""
OTHER_DRAWS = {"BEiT", "Swin", "CvT"}
"""What drops branches in training by rounding uniform numbers, where a blueprint's layer draws the drops themselves."""


def cases() -> list[object]:
    marks = {entry.name: () if entry.name in QUICK else (pytest.mark.slow,) for entry in ENTRIES}
    return [pytest.param(entry, id=entry.name, marks=marks[entry.name]) for entry in ENTRIES]


@pytest.mark.parametrize("entry", cases())
@pytest.mark.filterwarnings("default")  # what other libraries warn of is theirs
def test_a_network_of_the_catalogue_is_cut_described_and_rebuilt_or_refused(entry: Entry) -> None:
    finding = survey(entry)
    if entry.name in REFUSED:
        assert re.search(REFUSED[entry.name], finding.refusal)
        return
    assert finding.refusal == ""
    assert finding.as_aimed == (entry.name not in HEAVY | UNCUT), (finding.kinds, finding.largest)
    assert (finding.layer > 0.6) == (entry.name in HEAVY)
    assert (len(finding.kinds) == 1) == (entry.name in UNCUT)
    assert finding.same_draws == (entry.name not in OTHER_DRAWS)


def test_the_catalogue_is_as_large_as_the_documents_say() -> None:
    families = Counter(entry.family for entry in ENTRIES)
    assert families["torchvision"] >= 25
    assert families["timm"] >= 20
    assert families["transformers"] >= 20
    page = (Path(__file__).parents[2] / "docs" / "catalogue.md").read_text()
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")][1:]
    assert rows == [entry.name for entry in ENTRIES]
    missed = HEAVY | UNCUT | REFUSED.keys()
    assert missed <= set(rows)
    assert f"\n{len(ENTRIES) - len(missed)} of {len(ENTRIES)} (" in page
