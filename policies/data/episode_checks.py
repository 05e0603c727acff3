"""What an episode must be to be one of a dataset, once it is read."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipstep.observations import ArraySpec

from .episode import DatasetError, Episode
from .wanted import Wanted

Floats = NDArray[np.float32]


def check_episode(episode: Episode, first: Episode, wanted: Wanted) -> None:
    """Refuse an episode whose arrays fit neither each other nor the first one; cast its numbers.

    Raises:
        DatasetError: in one line with the episode and the field.
    """
    if not len(episode.action):
        raise DatasetError(f"{episode.name}: actions is empty")
    lengths = {"observations": len(episode.obs)}
    lengths |= {name: len(values) for name, values in (episode.arrays | episode.clips).items()}
    for name, n_steps in lengths.items():
        if n_steps != len(episode.action):
            raise DatasetError(
                f"{episode.name}: {name} has {n_steps} steps, actions has {len(episode.action)}"
            )
    for field in ("obs", "action"):
        values, expected = getattr(episode, field), getattr(first, field)
        if values.ndim != 2 or values.shape[1:] != expected.shape[1:]:
            raise DatasetError(
                f"{episode.name}: {field} has shape {values.shape}, "
                f"{first.name} has {expected.shape}"
            )
        setattr(episode, field, _as_float32(episode.name, field, values))
    for name, values in episode.arrays.items():
        if values.shape[1:] != wanted.arrays[name].shape:
            raise DatasetError(
                f"{episode.name}: {name} must be of {wanted.arrays[name]}, "
                f"got {ArraySpec(values.shape[1:])}"
            )
        episode.arrays[name] = _as_float32(episode.name, name, values)


def _as_float32(name: str, field: str, values: NDArray[Any]) -> Floats:
    """What is trained on: a float64 may be finite, and infinite as a float32."""
    with np.errstate(over="ignore"):
        cast: Floats = values.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(cast).all(axis=1))
    if not len(bad):
        return cast
    row = values[bad[0]]
    if not np.isfinite(row).all():
        raise DatasetError(f"{name}: {field} holds NaN or infinite values at step {bad[0]}")
    largest = row[~np.isfinite(cast[bad[0]])][0]
    raise DatasetError(
        f"{name}: {field} holds {largest:g} at step {bad[0]}, which is infinite in float32"
    )
