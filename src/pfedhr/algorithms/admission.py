"""What is wrong with what clients sent, told before a server's step, so that one client cannot end a round of all.

Every function returns the faults by client. They are of form: what fits and misleads, no look at one reply can tell.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from pfedhr.algorithm import ServerView
from pfedhr.algorithms.per_class import ClassMeans
from pfedhr.algorithms.uploads import Source, Upload, learn_structures, sources_of
from pfedhr.inference import LARGEST_BATCH, predict
from pfedhr.parcel import ParcelError, Tensors, computable
from pfedhr.reassembly import Blueprint, DecompositionError, check_batch, input_of, rebuild

MOST_EXAMPLES = 2**40
"""No client has more; what says so is out to outweigh the others, or broken."""
LARGEST_OUTPUT = 1e15
"""No network that has learnt gives more; of what says so, sums of squares may be infinite."""


class Counted(Protocol):
    """A reply that says how many examples it is made of."""

    @property
    def examples(self) -> int:
        """How many."""
        ...


def miscounted(replies: Mapping[str, Counted]) -> dict[str, str]:
    """Return the faults of replies of no examples, or of impossibly many."""
    return {
        client: f"it says that it is made of {one.examples} examples"
        for client, one in replies.items()
        if not 1 <= one.examples <= MOST_EXAMPLES
    }


def unlike(sent: Mapping[str, Tensors], model: Tensors | None) -> dict[str, str]:
    """Return the faults of weights that are not of the form of `model`, or where there is none yet, of most clients'."""
    forms = {client: _form(weights) for client, weights in sorted(sent.items())}
    if not forms:
        return {}
    wanted = _form(model) if model is not None else Counter(forms.values()).most_common(1)[0][0]
    return {client: _difference(dict(form), dict(wanted)) for client, form in forms.items() if form != wanted}


Form = tuple[tuple[str, tuple[str, tuple[int, ...], str]], ...]


def _form(weights: Tensors) -> Form:
    return tuple(sorted((name, (str(value.dtype), tuple(value.shape), _masked(value))) for name, value in weights.items()))


def _masked(value: Tensor) -> str:
    masked = minus_infinite(value)
    if not masked.any():
        return "finite"
    return f"-inf in {int(masked.sum())} places, {hashlib.sha256(masked.numpy().tobytes()).hexdigest()[:12]}"


def minus_infinite(value: Tensor) -> Tensor:
    """Return where a tensor is minus infinity, as no weight ever is, but a mask, which is the same at every client."""
    return computable(value).isneginf() if value.is_floating_point() else torch.zeros(value.shape, dtype=torch.bool)


def _difference(found: dict[str, tuple[str, tuple[int, ...], str]], wanted: dict[str, tuple[str, tuple[int, ...], str]]) -> str:
    name = min(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    return f"{name[:60]!r} is {found.get(name, 'missing')}, not {wanted.get(name, 'expected')}"


def misshapen(sent: Mapping[str, Tensor], shape: tuple[int, ...]) -> dict[str, str]:
    """Return the faults of tensors that are no float32 of this shape, or nothing that networks give."""
    faults = {
        client: f"it is {str(value.dtype)[6:]} of shape {tuple(value.shape)}, not float32 of {shape}"
        for client, value in sent.items()
        if value.dtype != torch.float32 or tuple(value.shape) != shape
    }
    beyond = [client for client, value in sent.items() if client not in faults and not (value.abs() <= LARGEST_OUTPUT).all()]
    return faults | dict.fromkeys(beyond, f"it holds values that are not finite, or beyond {LARGEST_OUTPUT:g}")


def unclassed(sent: Mapping[str, ClassMeans], classes: int, width: int | None, counted: bool = False) -> dict[str, str]:
    """Return the faults of class means that are none of `classes`, or not `width` wide: None for the width that most have.

    `counted`: whether they come with counts, as a method wants them or not.
    """
    if width is None and sent:
        widths = Counter(one.means.shape[-1] if one.means.dim() else 0 for _, one in sorted(sent.items()))
        width = widths.most_common(1)[0][0]
    faults: dict[str, str] = {}
    for client, one in sent.items():
        faults |= misshapen({client: one.means}, (len(one.classes) if one.classes.dim() == 1 else 0, width or 0))
        if not _are_classes(one.classes, classes):
            faults[client] = f"its classes are not different numbers below {classes}"
        elif counted and (one.counts is None or not _are_counts(one.counts, len(one.classes))):
            faults[client] = f"its counts are not a number from 1 to {MOST_EXAMPLES} a class"
        elif not counted and one.counts is not None:
            faults[client] = "it holds counts, which the method does not ask for"
    return faults


def improbable(sent: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the faults of rows (n, classes) that are not probabilities."""
    return {
        client: "its outputs are not probabilities, from 0 to 1 and 1 in sum"
        for client, rows in sent.items()
        if rows.min() < 0 or not torch.allclose(rows.sum(1), torch.ones(len(rows)), atol=1e-3)
    }


def _are_counts(numbers: Tensor, classes: int) -> bool:
    if numbers.dtype != torch.int64 or tuple(numbers.shape) != (classes,):
        return False
    return bool(numbers.min() >= 1 and numbers.max() <= MOST_EXAMPLES)


def _are_classes(numbers: Tensor, classes: int) -> bool:
    if numbers.dtype != torch.int64 or numbers.dim() != 1 or not len(numbers):
        return False
    return bool(numbers.min() >= 0 and numbers.max() < classes and len(numbers.unique()) == len(numbers))


def unfit(
    uploads: Mapping[str, Upload], known: Mapping[str, Blueprint], most: int, view: ServerView, tuned_in: int = 0
) -> dict[str, str]:
    """Return the faults of uploads that make no network from the public inputs to finite logits, of at most `most` blocks.

    `tuned_in`: the batch size in which the server trains what it makes of them, 0 = none.
    """
    faults = miscounted(uploads)
    inputs = view.public.take(torch.arange(min(2, len(view.public)))).ready(view.device).inputs
    for client, sent in uploads.items():
        try:
            (source,) = sources_of({client: sent}, learn_structures(known, {client: sent}), most).values()
            if fault := _fault(source, inputs, view, tuned_in):
                faults[client] = fault
        # Whatever a client's network raises, where it meets sizes or values that the example in its blueprint did not show.
        except Exception as error:
            told = isinstance(error, ParcelError | DecompositionError)
            faults[client] = str(error) if told else f"its network cannot be run: {type(error).__name__}: {error}"
    return faults


def _fault(source: Source, inputs: Tensor, view: ServerView, tuned_in: int) -> str | None:
    """Return what is wrong with a network that can be cut, if anything, tried on `inputs`; it raises what its operations do."""
    taken, given = input_of(source.blueprint, 1), source.plans[-1].out_shape
    if (taken.dtype, taken.shape[1:], given) != (inputs.dtype, inputs.shape[1:], (view.classes,)):
        return f"its network leads from {str(taken.dtype)[6:]} {tuple(taken.shape[1:])} to {given}"
    for batch in _batches(len(view.public), LARGEST_BATCH):
        check_batch(source.blueprint, batch, training=False)
    for batch in _batches(len(view.public), tuned_in) if tuned_in else ():
        check_batch(source.blueprint, batch, training=True)
    network = rebuild(source.blueprint, source.weights).to(view.device)
    return None if not len(inputs) or predict(network, inputs).isfinite().all() else "its network's logits are not finite"


def _batches(count: int, size: int) -> set[int]:
    """Return the sizes of the batches of at most `size` that `count` examples fall into."""
    return {min(size, count), count % size or min(size, count)} if count else set()
