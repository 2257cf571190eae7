"""Reassembly without any federation: take your networks apart, and make new ones of their blocks.

    python examples/reassemble.py

Three networks are given. Their blocks are grouped by what they do on a probe of images, the candidates that the paper's rules
allow are proposed and assembled, and each network is matched with the candidate that answers most like it.
"""

import torch
from torch import nn

import pfedhr

torch.manual_seed(0)

networks: dict[str, nn.Module] = {
    "small": nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(8 * 12 * 12, 10),
    ),
    "deep": nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Sequential(nn.Linear(32 * 7 * 7, 64), nn.ReLU()),
        nn.Linear(64, 10),
    ),
    "wide": nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 64, 7, stride=2), nn.ReLU()),
        nn.Sequential(nn.Conv2d(64, 64, 3), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    ),
}
images = torch.randn(256, 1, 28, 28)  # your public images

for name, network in networks.items():
    print(name)
    for block in pfedhr.decompose(network, images):
        print(f"    {block.op:<5} {block.in_shape!s:>13} -> {block.out_shape!s:<13} {block.parameters:>7,} parameters")

bank = pfedhr.deposit(networks, images)
groups = pfedhr.group(pfedhr.block_similarity(pfedhr.profile(bank, images)), 3)
print("groups")
for members in groups:
    print("   ", *members)

recipes = pfedhr.propose(groups, bank, limit=8, rng=pfedhr.generator(0, "recipes"))
candidates = [pfedhr.assemble(recipe, bank) for recipe in recipes]
print(f"{len(candidates)} candidates")
for recipe, candidate in zip(recipes, candidates, strict=True):
    print(f"    {recipe!s:<30} {sum(value.numel() for value in candidate.parameters()):>7,} parameters")

matching = pfedhr.match(networks, candidates, images)
for name, number in matching.choice.items():
    print(f"{name} is answered most alike by {recipes[number]}")
