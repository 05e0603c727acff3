"""Npz files: one array a field, all episodes one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipstep.npz_files import open_npz

from .episode import DatasetError, Episode, fields_of, join, readable
from .wanted import Wanted

STATE_KEYS = ("obs", "state")


def _rows(array: NDArray[Any]) -> NDArray[Any]:
    """Points (n_steps, n_points, 2), as PushT's keypoints are kept, in one row a step."""
    return array.reshape(len(array), -1) if array.ndim == 3 else array


def read_npz(path: Path, wanted: Wanted) -> Iterator[Episode]:
    """Npz with obs (or state), action and episode_ends, and source_demo of replayed episodes.

    Other arrays of numbers have our names; images are kept in the two other formats.
    """
    if wanted.images:
        raise DatasetError(
            f"{path}: an npz holds no images: {', '.join(wanted.images)} must come from a "
            "robomimic HDF5 or a LeRobot folder"
        )
    with readable(path), open_npz(path) as file:
        keys = wanted.state_keys([key for key in STATE_KEYS if key in file][:1] or STATE_KEYS[:1])
        for field in (*keys, *wanted.numbers, "action", "episode_ends"):
            if field not in file:
                raise DatasetError(f"{path}: no {field} in it, it holds {', '.join(file)}")
        parts = [(key, _rows(file[key])) for key in keys]
        action, ends = join(str(path), [("action", file["action"])]), file["episode_ends"]
        obs = join(str(path), parts) if parts else np.empty((len(action), 0))
        fields = fields_of(parts)
        arrays = {name: join(str(path), [(name, file[name])]) for name in wanted.numbers}
        sources = file.get("source_demo")
    if ends.ndim != 1 or not len(ends):
        raise DatasetError(f"{path}: episode_ends is empty")
    if not np.issubdtype(ends.dtype, np.integer):
        raise DatasetError(f"{path}: episode_ends must hold integers, got {ends.dtype}")
    lengths = {**({keys[0]: len(obs)} if keys else {}), **{n: len(a) for n, a in arrays.items()}}
    whole = {ends[-1], *lengths.values()} == {len(action)}
    if not whole or (np.diff(ends, prepend=0) < 1).any():
        there = ", ".join(f"{n} of {name}" for name, n in lengths.items())
        raise DatasetError(
            f"{path}: episode_ends must rise to the number of steps, got {ends[-1]} "
            f"with {len(action)} steps of action and {there}"
        )
    if sources is not None and sources.shape != ends.shape:
        raise DatasetError(
            f"{path}: source_demo has {sources.size} numbers, episode_ends has {len(ends)}"
        )
    if sources is not None and not np.issubdtype(sources.dtype, np.integer):
        raise DatasetError(f"{path}: source_demo must hold integers, got {sources.dtype}")
    for number, (low, high) in enumerate(zip(np.r_[0, ends[:-1]], ends, strict=True)):
        source = None if sources is None else (0, int(sources[number]))
        yield Episode(
            f"{path}: episode {number}",
            obs[low:high],
            action[low:high],
            source=source,
            derived=source is not None,
            fields=fields,
            arrays={name: array[low:high] for name, array in arrays.items()},
        )
