"""Observations in an npz: one array is `obs`, of several each is `obs/<name>`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from .observations import Arrays

OBS, OF = "obs", "obs/"


def arrays_of(obs: Arrays) -> dict[str, Any]:
    """What is written."""
    if not isinstance(obs, Mapping):
        return {OBS: obs}
    return {OF + name: array for name, array in obs.items()}


def obs_in(file: Mapping[str, NDArray[Any]]) -> Arrays:
    """What was written.

    Raises:
        KeyError: the file has no observations.
    """
    found = {name.removeprefix(OF): file[name] for name in file if name.startswith(OF)}
    return found or file[OBS]
