"""Grouping blocks by what they do: k-medoids over the distance of eq. (3), for only distances between blocks exist."""

from __future__ import annotations

import kmedoids
import numpy as np

from pfedhr.reassembly.bank import BlockRef
from pfedhr.reassembly.similarity import Similarity

Groups = tuple[tuple[BlockRef, ...], ...]


def distances(similarity: Similarity) -> np.ndarray:
    """Return eq. (3) for all pairs, (blocks, blocks) float64: 1 / similarity, from 1/2 for twins up to 10^6.

    Rounded to six digits, so that the last bits of a matrix product decide nothing. Raises ValueError for what is not a number.
    """
    values = similarity.values.double().cpu().numpy()
    if len(unknown := np.argwhere(np.isnan(values))):
        first, second = (similarity.refs[place] for place in unknown[0])
        raise ValueError(f"the similarity of blocks {first} and {second} is not a number")
    return np.round(1 / np.maximum((values + values.T) / 2, 1e-6), 6)


def group(similarity: Similarity, count: int) -> Groups:
    """Return `count` groups of blocks: eq. (4), solved by k-medoids (FasterPAM of Schubert and Rousseeuw, 2021, from BUILD).

    The groups come in a canonical order, by (mean index, smallest member), each sorted by (index, owner): neither the
    order of the clients nor any label shows. Raises ValueError if there are fewer blocks than groups, or for what `distances`
    refuses.
    """
    refs = similarity.refs
    if not 1 <= count <= len(refs):
        raise ValueError(f"{count} groups of {len(refs)} blocks: choose between 1 and {len(refs)} groups")
    between = distances(similarity) - 0.5  # twins at zero, as a block is to itself
    np.fill_diagonal(between, 0)
    labels = _labels(between, count)
    members = ([ref for ref, label in zip(refs, labels, strict=True) if label == at] for at in range(count))
    groups = [tuple(sorted(found, key=lambda ref: ref.place)) for found in members]
    return tuple(sorted(groups, key=lambda found: (sum(ref.index for ref in found) / len(found), found[0].place)))


def _labels(between: np.ndarray, count: int) -> list[int]:
    """Return a group for each row: the nearest medoid, the first of equals; a medoid stays in its own group."""
    if count == len(between):
        return list(range(count))
    medoids = kmedoids.fasterpam(between, count, init="build", random_state=0).medoids
    medoids = np.sort(np.asarray(medoids, dtype=np.int64))
    labels = between[:, medoids].argmin(axis=1)
    labels[medoids] = np.arange(count)
    return labels.tolist()
