"""What a LeRobot policy sees and does, by LeRobot's names and by ours."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skipstep.observations import ENVIRONMENT, IMAGE, STATE

from ..family import UnsupportedPolicy
from .settings import CONFIG, Settings, is_whole

log = logging.getLogger(__name__)

ACTION = "action"
PREFIX = "observation."
NUMBERS = {"STATE": (f"{PREFIX}state", STATE), "ENV": (f"{PREFIX}environment_state", ENVIRONMENT)}
KINDS = ("STATE", "VISUAL", "ENV", "ACTION")
CHANNELS = 3


@dataclass(frozen=True)
class Feature:
    """An array of an observation, or the action.

    Attributes:
        theirs: LeRobot's name.
        ours: `state`, `environment_state`, `image.<camera>`, `action`; "": the network does not
            see it.
        kind: of `KINDS`.
        shape: (D,) numbers, or (C, H, W) of an image.
    """

    theirs: str
    ours: str
    kind: str
    shape: tuple[int, ...]

    @property
    def statistics_shape(self) -> tuple[int, ...]:
        """Of what normalises it: a number each, or one a channel."""
        return (self.shape[0], 1, 1) if self.kind == "VISUAL" else self.shape


@dataclass(frozen=True)
class Features:
    """All of them, in the order of config.json.

    Attributes:
        inputs: what an observation of LeRobot's holds.
        action: what it does.
    """

    inputs: tuple[Feature, ...]
    action: Feature

    @property
    def seen(self) -> tuple[Feature, ...]:
        """What the network is told, in its order: state, cameras, environment_state."""
        by_kind = {kind: [f for f in self.inputs if f.kind == kind and f.ours] for kind in KINDS}
        return (*by_kind["STATE"], *by_kind["VISUAL"], *by_kind["ENV"])

    @property
    def aliases(self) -> dict[str, str]:
        """{LeRobot's name: ours}."""
        return {f.theirs: f.ours for f in self.seen}


def camera(theirs: str) -> str:
    """Our name of an image.

    Example:
        >>> camera("observation.images.top"), camera("observation.image")
        ('image.top', 'image.image')
    """
    return IMAGE + theirs.removeprefix(PREFIX).removeprefix("images.")


def features_of(settings: Settings) -> Features:
    """What `input_features` and `output_features` say.

    Raises:
        ValueError, UnsupportedPolicy: what LeRobot's diffusion policy could not be made of, or does
            not read.
    """
    inputs = tuple(
        _feature("input_features", name, said)
        for name, said in settings.mapping("input_features").items()
    )
    outputs = settings.mapping("output_features")
    if list(outputs) != [ACTION]:
        raise UnsupportedPolicy(
            f"{CONFIG}: output_features must be {ACTION} alone, got {', '.join(outputs) or 'none'}"
        )
    action = _feature("output_features", ACTION, outputs[ACTION])
    if action.kind != "ACTION":
        raise ValueError(f"{CONFIG}: output_features.action must be of type ACTION")
    found = Features(inputs, action)
    _check(found)
    return found


def _feature(where: str, name: str, said: Any) -> Feature:
    words = f"{CONFIG}: {where}.{name}"
    if not isinstance(said, Mapping) or set(said) != {"type", "shape"}:
        raise ValueError(f"{words} must have type and shape, got {said!r}")
    kind, shape = said["type"], said["shape"]
    allowed = KINDS[-1:] if where == "output_features" else KINDS[:-1]
    if kind not in allowed:
        raise UnsupportedPolicy(f"{words}: type must be one of {', '.join(allowed)}, got {kind!r}")
    if not isinstance(shape, list) or not all(map(is_whole, shape)):
        raise ValueError(f"{words}: shape must be whole numbers, got {shape!r}")
    if kind == "VISUAL":
        if len(shape) != 3 or shape[0] != CHANNELS:
            raise ValueError(
                f"{words}: shape must be [{CHANNELS}, height, width], channels first, got {shape}"
            )
        return Feature(name, camera(name), kind, tuple(shape))
    if len(shape) != 1:
        raise ValueError(f"{words}: shape must be [numbers], got {shape}")
    theirs, ours = NUMBERS.get(kind, (ACTION, ACTION))
    if name != theirs and kind == "ENV":
        raise UnsupportedPolicy(f"{words}: of type ENV only {theirs} is read by LeRobot's network")
    return Feature(name, ours if name == theirs else "", kind, tuple(shape))


def _check(features: Features) -> None:
    if STATE not in features.aliases.values():
        raise ValueError(
            f"{CONFIG}: input_features must have {NUMBERS['STATE'][0]} of type STATE, which "
            "LeRobot's network always reads"
        )
    images = [f for f in features.seen if f.kind == "VISUAL"]
    for image in images:
        if image.shape != images[0].shape:
            raise ValueError(
                f"{CONFIG}: input_features.{image.theirs} must have shape "
                f"{list(images[0].shape)}, as {images[0].theirs}, got {list(image.shape)}"
            )
    if len(features.aliases) != len(set(features.aliases.values())):
        raise ValueError(
            f"{CONFIG}: two cameras of input_features have one name here: "
            f"{', '.join(f'{t} is {o}' for t, o in features.aliases.items())}"
        )
    for other in (f for f in features.inputs if not f.ours):
        log.warning("%s: %s is an input that LeRobot's network does not read", CONFIG, other.theirs)
