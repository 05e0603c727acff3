"""A folder of LeRobot's: finding the newest one of a training, and reading it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import PolicyConfig
from .config import TRAINING, task_of
from .dit import CHANGE_NOTHING as OF_DIT
from .dit import read_dit
from .features import Features, features_of
from .files import json_in, tensors_in
from .keys import WEIGHTS, without_compiled
from .normalization import Statistics
from .processors import PREPROCESSOR
from .settings import CHANGE_NOTHING, CONFIG, Settings, check_type
from .unet import read_unet

log = logging.getLogger(__name__)

PRETRAINED, CHECKPOINTS, LAST = "pretrained_model", "checkpoints", "last"
Read = Callable[
    [Path, Settings, Features, dict[str, Tensor], dict[str, Any]],
    tuple[PolicyConfig, dict[str, Tensor], Statistics],
]
READERS: dict[str, tuple[Read, Mapping[str, str]]] = {
    "diffusion": (read_unet, {}),
    "multi_task_dit": (read_dit, OF_DIT),
}
"""By the type in config.json: what reads it, and settings of its own that change no action."""


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
    """The settings and the state dict of a policy.

    Raises:
        ValueError, UnsupportedPolicy: what is missing, unknown or contradicts itself, in one line
            that names the file and the key.
    """
    said = json_in(folder, CONFIG)
    read, irrelevant = READERS[check_type(said, READERS)]
    settings = Settings({k: v for k, v in said.items() if k != "type"})
    features = features_of(settings)
    state = without_compiled(tensors_in(folder, WEIGHTS))
    task, control_hz = task_of(_training(folder))
    about = {"task": task, "control_hz": control_hz}
    config, weights, statistics = read(folder, settings, features, state, about)
    settings.finish((*CHANGE_NOTHING, *irrelevant))
    return config, {**weights, **_normalizer(config, statistics)}


def _training(folder: Path) -> dict[str, Any] | None:
    return json_in(folder, TRAINING) if (folder / TRAINING).is_file() else None


def _normalizer(config: PolicyConfig, statistics: Statistics) -> dict[str, Tensor]:
    names = {"state": "obs"} if config.encoder is None else {}
    return {
        f"normalizer.params_dict.{names.get(field, field)}.{name}": value
        for field, values in statistics.items()
        for name, value in values.items()
    }
