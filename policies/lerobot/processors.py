"""The pipelines beside a policy of LeRobot 0.4 and later: what they do to observations and actions.

Each is a list of named steps. A step that is not known here is refused: leaving it out would give
other actions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.modes import EPS
from ..family import UnsupportedPolicy
from .features import Feature, Features
from .files import json_in, tensors_in
from .settings import CONFIG, Settings

log = logging.getLogger(__name__)

PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"
FLOATS = (None, "float32", "float")


@dataclass(frozen=True)
class Normalization:
    """The step of a pipeline that normalises, or maps back.

    Attributes:
        file: of the pipeline.
        norm_map: {kind of feature: LeRobot's mode}.
        state: of its file, {"<feature>.<statistic>": tensor}.
        state_file: its name.
    """

    file: str
    norm_map: Mapping[str, Any]
    state: Mapping[str, Tensor]
    state_file: str


def _rename(settings: Settings, features: Features) -> None:
    """The world's names to the policy's, by which it is asked here."""
    known = [f.theirs for f in features.inputs]
    for world, name in settings.mapping("rename_map").items():
        if name not in known or world in known:
            raise ValueError(
                f"rename_map must give names to inputs of {CONFIG} that it has not, got "
                f"{world}: {name!r}"
            )
        log.info("LeRobot's preprocessor calls the world's %s %s", world, name)


def _device(settings: Settings, features: Features) -> None:
    settings.take("device", None)
    if (floats := settings.take("float_dtype", None)) not in FLOATS:
        raise UnsupportedPolicy(
            f"device_processor: float_dtype must be null or float32, got {floats!r}: policies run "
            "in float32 here"
        )


def _nothing(settings: Settings, features: Features) -> None:
    """A batch of one is made here too."""


Steps = Mapping[str, Callable[[Settings, Features], None]]
HARMLESS: Steps = {
    "rename_observations_processor": _rename,
    "to_batch_processor": _nothing,
    "device_processor": _device,
}
NORMALIZERS = {PREPROCESSOR: "normalizer_processor", POSTPROCESSOR: "unnormalizer_processor"}


def normalization_in(
    folder: Path, file: str, features: Features, others: Steps | None = None
) -> Normalization:
    """The one step of a pipeline that has statistics; all others are checked.

    Args:
        folder: of LeRobot's.
        file: of the pipeline.
        features: what the policy sees and does.
        others: steps that its type has besides `HARMLESS`, and what checks them.

    Raises:
        ValueError, UnsupportedPolicy: unknown steps, and what contradicts config.json; one line
            that names the file.
    """
    try:
        return _normalization(folder, file, features, {**HARMLESS, **(others or {})})
    except ValueError as error:
        if str(error).startswith(file):
            raise
        raise type(error)(f"{file}: {error}") from None


def _normalization(folder: Path, file: str, features: Features, known: Steps) -> Normalization:
    pipeline = Settings(json_in(folder, file), file)
    pipeline.take("name", None)
    steps = pipeline.take("steps")
    pipeline.finish()
    if not isinstance(steps, list):
        raise ValueError(f"{file}: steps must be a list, got {steps!r}")
    wanted, found = NORMALIZERS[file], []
    for number, said in enumerate(steps):
        name, settings, state_file = _step(file, number, said)
        if name == wanted:
            found.append((settings, state_file))
            continue
        if name not in known:
            raise UnsupportedPolicy(
                f"{file}: step {number}, {name}, is not supported (known: "
                f"{', '.join((*known, wanted))})"
            )
        known[name](settings, features)
        settings.finish()
    if len(found) != 1:
        raise ValueError(f"{file}: must have one {wanted}, got {len(found)}")
    settings, state_file = found[0]
    norm_map = _checked(file, settings, features)
    if state_file is None:
        raise ValueError(f"{file}: {wanted} names no state_file, so it has no statistics")
    return Normalization(file, norm_map, tensors_in(folder, state_file), str(state_file))


def _step(file: str, number: int, said: Any) -> tuple[str, Settings, Any]:
    if not isinstance(said, Mapping):
        raise ValueError(f"{file}: step {number} must be a mapping, got {said!r}")
    step = Settings(said, f"{file}: step {number}")
    if "registry_name" not in said:
        raise UnsupportedPolicy(
            f"{file}: step {number} is {said.get('class')!r}, code of its own, which is not run"
        )
    name, state_file = str(step.take("registry_name")), step.take("state_file", None)
    config = step.take("config", {})
    step.finish()
    if not isinstance(config, dict):
        raise ValueError(f"{file}: step {number}, config must be a mapping, got {config!r}")
    return name, Settings(config, f"{file}: {name}"), state_file


def _checked(file: str, settings: Settings, features: Features) -> Mapping[str, Any]:
    """The map of a normalising step whose other settings say what config.json says."""
    if (eps := settings.number("eps")) != EPS:
        raise UnsupportedPolicy(f"{file}: eps must be {EPS:g}, got {eps:g}")
    norm_map, said = settings.mapping("norm_map"), settings.mapping("features")
    if (only := settings.take("normalize_observation_keys", None)) is not None:
        raise UnsupportedPolicy(f"{file}: normalize_observation_keys={only!r} is not supported")
    settings.finish()
    wanted = (*features.seen, features.action) if file == PREPROCESSOR else (features.action,)
    for feature in wanted:
        expected = {"type": feature.kind, "shape": list(feature.shape)}
        if said.get(feature.theirs) != expected:
            raise ValueError(
                f"{file}: features.{feature.theirs} must be {expected}, as in config.json, "
                f"got {said.get(feature.theirs)!r}"
            )
    return norm_map


def statistic(step: Normalization, feature: Feature, name: str) -> tuple[str, str, Tensor | None]:
    """The file, the key, and the tensor of a feature's statistic; None: it is not there."""
    key = f"{feature.theirs}.{name}"
    value = step.state.get(key)
    if value is not None and feature.kind == "VISUAL" and value.ndim == 1:
        value = value[:, None, None]  # a number a channel; LeRobot reshapes it likewise
    return step.state_file, key, value
