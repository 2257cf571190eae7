"""What methods need of an experiment, said before any training."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import typing
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch

from pfedhr.algorithm import Algorithm, SettingError, Setup
from pfedhr.data import Examples
from pfedhr.heads import Extractor, HeadError
from pfedhr.learning import Privacy, PrivacyError, check_gradients
from pfedhr.models import build, check_last_batch
from pfedhr.seeding import seeded


def at_least(algorithm: Algorithm, **least: float) -> None:
    """Raise SettingError unless every named setting is finite and as large as `least` says."""
    for setting, limit in least.items():
        _require(algorithm, setting, getattr(algorithm, setting) >= limit, f"{limit} or more")
        _require(algorithm, setting, getattr(algorithm, setting) < math.inf, "a finite number")


def above(algorithm: Algorithm, **limits: float) -> None:
    """Raise SettingError unless every named setting is larger than `limits` says."""
    for setting, limit in limits.items():
        _require(algorithm, setting, getattr(algorithm, setting) > limit, f"a number above {limit}")


def above_zero(algorithm: Algorithm, *settings: str) -> None:
    """Raise SettingError unless every named setting is finite and above 0."""
    above(algorithm, **dict.fromkeys(settings, 0))
    at_least(algorithm, **dict.fromkeys(settings, 0))  # nor infinite


def shares(algorithm: Algorithm, *settings: str) -> None:
    """Raise SettingError unless every named setting is from 0 to 1."""
    for setting in settings:
        _require(algorithm, setting, 0 <= getattr(algorithm, setting) <= 1, "a number from 0 to 1")


def choices(algorithm: Algorithm) -> None:
    """Raise SettingError for a setting that is none of those which its type names. Files are read so; this is for Python."""
    kinds = typing.get_type_hints(type(algorithm))
    for field in dataclasses.fields(cast(Any, algorithm)):
        if typing.get_origin(kinds[field.name]) is Literal:
            known = typing.get_args(kinds[field.name])
            _require(algorithm, field.name, getattr(algorithm, field.name) in known, f"one of {', '.join(map(str, known))}")


def one_structure(algorithm: Algorithm, setup: Setup) -> None:
    """Raise SettingError unless all clients have the same network."""
    names = sorted({network.factory for network in setup.networks.values()})
    if len(names) > 1:
        raise SettingError(
            f"{algorithm.name} averages whole networks, so all clients need the same one, not {', '.join(names)}: name one in "
            f"clients.models, or choose a method for networks that differ"
        )


def public_data(algorithm: Algorithm, setup: Setup) -> None:
    """Raise SettingError if the method uses public data and there is none."""
    use = algorithm.public_use(labelled=True)
    if use != "none" and not len(setup.public):
        raise SettingError(f"{algorithm.name} needs public data, {use}: set public.share above 0")


def public_labels(algorithm: Algorithm, setup: Setup, otherwise: str = "") -> None:
    """Raise SettingError unless the public data is labelled; `otherwise` names another way out."""
    if not isinstance(setup.public, Examples):
        raise SettingError(f"{algorithm.name} needs labels of the public data: set public.labelled = true{otherwise}")


def public_batches(setup: Setup, setting: str, batch_size: int, most: int | None = None) -> None:
    """Raise ModelError if training on the public data, or `most` of it, ends in a batch of one that a network cannot take."""
    count = len(setup.public) if most is None else min(most, len(setup.public))
    for network in setup.structures:
        check_last_batch(network, setup.examples, count, batch_size, f"{setting} and the public data")


def views_of_images(setup: Setup) -> None:
    """Raise SettingError unless there are random views of the public inputs, as tuning without labels needs them."""
    inputs = setup.public.inputs
    if inputs.dim() != 4:
        raise SettingError(
            f"public.labelled = false: tuning without labels needs images (channels, height, width), not inputs of "
            f"shape {tuple(inputs.shape[1:])}; give labelled public data"
        )
    if inputs.dtype == torch.uint8 or inputs.shape[1] != 3 or not len(inputs):
        return
    lowest, highest = (value.item() for value in inputs.aminmax())
    if lowest < -1 or highest > 1:  # what colours are jittered to would be cut off there
        raise SettingError(
            f"public.labelled = false: tuning without labels changes the colours of images, which must lie in [-1, 1], and "
            f"these go from {lowest:g} to {highest:g}: scale them, give them as uint8, or give labelled public data"
        )


def covered(algorithm: Algorithm, privacy: Privacy) -> None:
    """Raise SettingError unless `privacy` covers all that the method does with private examples."""
    if algorithm.uncovered is not None:
        raise SettingError(
            f"privacy.noise = {privacy.noise}: differential privacy does not cover {algorithm.name}: {algorithm.uncovered}. "
            f"Set privacy.noise = 0, or choose as algorithm.name a method that it covers, such as fedavg or pfedhr"
        )


def private_training(algorithm: Algorithm, setup: Setup, privacy: Privacy, counts: Mapping[str, int]) -> None:
    """Raise SettingError unless all clients, of whom each has `counts` private examples, can train with `privacy`."""
    covered(algorithm, privacy)
    place = f"privacy.noise = {privacy.noise}"
    if importlib.util.find_spec("opacus") is None:
        raise SettingError(f"{place}: differential privacy needs Opacus: pip install 'pfedhr[dp]', or set privacy.noise = 0")
    size = setup.training.batch_size
    for client, count in counts.items():
        if count < size:
            raise SettingError(
                f"plan.batch_size = {size}: client {client} has {count} examples only, and with privacy.noise a batch is "
                f"expected to be no larger; choose at most {min(counts.values())}"
            )
        if privacy.delta >= 1 / count:
            raise SettingError(
                f"privacy.delta = {privacy.delta}: client {client} has {count} examples, and a delta of one over them allows "
                f"one to be given away whole; choose less than 1 / {max(counts.values())}"
            )
    trained = {part: client for client, own in sorted(setup.networks.items(), reverse=True) for part in algorithm.trained(own)}
    for network, client in trained.items():
        try:
            with seeded(0, "check"):
                check_gradients(build(network, 0), setup.examples)
        except PrivacyError as error:
            raise SettingError(
                f"the network {network.factory!r}, which client {client} trains, cannot be trained with {place}: {error}. "
                f"Use a network with group or layer norm that treats every example by itself, or set privacy.noise = 0"
            ) from error


def common_features(algorithm: Algorithm, setup: Setup) -> None:
    """Raise SettingError unless the features of all clients' networks have one width, or HeadError if one has no head."""
    widths: dict[str, int] = {}
    for network in setup.structures:
        try:
            extractor = Extractor(build(network, 0), network.classes)
            extractor.check(setup.examples)
        except HeadError as error:
            raise HeadError(f"the network {network.factory!r}: {error}") from error
        widths[network.factory] = extractor.head.in_features
    if len(set(widths.values())) > 1:
        found = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise SettingError(
            f"{algorithm.name} needs features of one width before the last layer, and they are {found}: set clients.features, "
            f"to 64 for one, for an adapter of that width in every network"
        )


def _require(algorithm: Algorithm, setting: str, holds: bool, remedy: str) -> None:
    value: Any = getattr(algorithm, setting)
    if not holds:
        raise SettingError(f"algorithm.{setting} = {value} of {algorithm.name}: choose {remedy}")
