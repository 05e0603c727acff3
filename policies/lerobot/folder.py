"""A folder of LeRobot's: finding the newest one of a training, and reading it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import PolicyConfig
from ..encoders.encoder import ObservationEncoder
from ..families import family_named
from ..undrawn import Undrawn
from .config import TRAINING, policy_config, task_of
from .features import features_of
from .files import json_in, tensors_in
from .keys import WEIGHTS, renamed, theirs, without_compiled
from .normalization import Statistics, of_buffers, of_processors
from .processors import POSTPROCESSOR, PREPROCESSOR
from .settings import CHANGE_NOTHING, CONFIG, Settings, check_type

log = logging.getLogger(__name__)

PRETRAINED, CHECKPOINTS, LAST = "pretrained_model", "checkpoints", "last"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COUNTS = "num_batches_tracked"


def is_lerobot(path: Path) -> bool:
    """Whether a folder is a policy of LeRobot's, as it writes one."""
    return (path / CONFIG).is_file() and (
        (path / WEIGHTS).is_file() or (path / PREPROCESSOR).is_file() or _has_type(path)
    )


def _has_type(path: Path) -> bool:
    try:
        return "type" in json_in(path, CONFIG)
    except ValueError:
        return False


def find_lerobot(path: Path) -> Path | None:
    """The policy in a folder, in a checkpoint, or the last one in the output of a training."""
    here = [path, path / PRETRAINED]
    for steps in (path, path / CHECKPOINTS):
        here.append(steps / LAST / PRETRAINED)
        numbered = [p for p in steps.glob("*") if p.name.isdecimal()]
        here += [p / PRETRAINED for p in sorted(numbered, key=lambda p: -int(p.name))]
    found = next((p for p in here if is_lerobot(p)), None)
    if found not in (None, path):
        log.info("%s: taking %s", path, found)
    return found


def read_lerobot(folder: Path) -> tuple[PolicyConfig, dict[str, Tensor]]:
    """The settings and the state dict of a policy of type diffusion.

    Raises:
        ValueError, UnsupportedPolicy: what is missing, unknown or contradicts itself, in one line
            that names the file and the key.
    """
    said = json_in(folder, CONFIG)
    check_type(said)
    settings = Settings({k: v for k, v in said.items() if k != "type"})
    features, norm_map = features_of(settings), settings.mapping("normalization_mapping")
    state = without_compiled(tensors_in(folder, WEIGHTS))
    if any((folder / name).exists() for name in (PREPROCESSOR, POSTPROCESSOR)):
        modes, statistics = of_processors(folder, norm_map, features)
    else:
        modes, statistics = of_buffers(state, norm_map, features)
    task, control_hz = task_of(_training(folder))
    config = policy_config(settings, features, modes, task, control_hz)
    settings.finish(CHANGE_NOTHING)
    return config, {**_weights(config, state), **_normalizer(config, statistics)}


def _training(folder: Path) -> dict[str, Any] | None:
    return json_in(folder, TRAINING) if (folder / TRAINING).is_file() else None


def _weights(config: PolicyConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """All but the statistics, under our names."""
    wanted = {f"{part}.{key}": shape for part, key, shape in _shapes(config)}
    shared = config.encoder is not None and config.encoder.shared
    found = renamed(state, wanted, partial(theirs, shared_encoder=shared))
    for key, value in found.items():
        if value.dtype not in FLOATS and not key.endswith(COUNTS):
            raise ValueError(
                f"{WEIGHTS}: {theirs(key, shared)} must be floating-point numbers of 16 to 64 "
                f"bits, got {value.dtype}"
            )
    return found


def _shapes(config: PolicyConfig) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Part of a policy, name and shape of each of its weights and buffers."""
    with torch.device("meta"), Undrawn():
        parts = {"model": family_named(config.network.family).network(config.network)}
        if config.encoder is not None:
            parts["encoder"] = ObservationEncoder(config.encoder)
    for part, module in parts.items():
        for key, value in module.state_dict().items():
            yield part, key, tuple(value.shape)


def _normalizer(config: PolicyConfig, statistics: Statistics) -> dict[str, Tensor]:
    names = {"state": "obs"} if config.encoder is None else {}
    return {
        f"normalizer.params_dict.{names.get(field, field)}.{name}": value
        for field, values in statistics.items()
        for name, value in values.items()
    }
