"""What tasks that can show pictures share: checks of their settings, and their worlds' spaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from skipstep.observations import STATE, ObservationSpec

if TYPE_CHECKING:
    import gymnasium as gym

SMALLEST, LARGEST = 8, 1024


def check_image_size(size: int | None) -> None:
    """Refuse a `task.image_size` that no picture has; None leaves it open.

    Raises:
        ValueError: it is too small or too large.
    """
    if size is not None and not SMALLEST <= size <= LARGEST:
        raise ValueError(f"task.image_size must be from {SMALLEST} to {LARGEST}, got {size}")


def check_no_pictures(settings: Mapping[str, Any], obs: str) -> None:
    """Refuse settings of pictures where `obs`, the task's kind of observation, has none.

    Args:
        settings: {setting: value}; None is one that was not asked for.
        obs: to be named.

    Raises:
        ValueError: one was asked for.
    """
    for key, value in settings.items():
        if value is not None:
            raise ValueError(f"task.{key} needs task.obs=image, got {value!r} with obs={obs}")


def observation_space(spec: ObservationSpec) -> gym.Space[Any]:
    """What gymnasium calls the arrays that a world shows; a single one is no dictionary."""
    import gymnasium as gym  # only those wait for it who make environments

    spaces: dict[str, gym.Space[Any]] = {
        name: gym.spaces.Box(0, 255, array.shape, np.uint8)
        if name in spec.images
        else gym.spaces.Box(-np.inf, np.inf, array.shape, np.float64)
        for name, array in spec.items()
    }
    return spaces[STATE] if spec.single else gym.spaces.Dict(spaces)
