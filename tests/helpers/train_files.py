"""Tiny datasets of each kind, written on the spot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

LIFT = {
    "object": 10,
    "robot0_eef_pos": 3,
    "robot0_eef_quat": 4,
    "robot0_gripper_qpos": 2,
}
LENGTHS = (12, 9, 15, 11)


def episodes(lengths: Sequence[int], dims: Sequence[int], seed: int = 0) -> list[list[np.ndarray]]:
    """For each length one array (length, dim) per dim."""
    rng = np.random.default_rng(seed)
    return [[rng.uniform(-1, 1, (n, d)).astype(np.float32) for d in dims] for n in lengths]


def write_robomimic(
    path: Path,
    lengths: Sequence[int] = LENGTHS,
    fields: dict[str, int] = LIFT,
    action_dim: int = 7,
    masks: dict[str, list[str]] | None = None,
) -> Path:
    with h5py.File(path, "w") as file:
        for i, (actions, *obs) in enumerate(episodes(lengths, [action_dim, *fields.values()])):
            demo = file.create_group(f"data/demo_{i}")
            demo.attrs["num_samples"] = len(actions)
            demo["actions"] = actions.astype(np.float64)
            for key, values in zip(fields, obs, strict=True):
                demo[f"obs/{key}"] = values
        for side, names in (masks or {}).items():
            file[f"mask/{side}"] = np.array(names, "S")
    return path


def write_npz(
    path: Path,
    lengths: Sequence[int] = LENGTHS,
    obs_dim: int = 59,
    action_dim: int = 9,
    **more: Any,
) -> Path:
    parts = episodes(lengths, [obs_dim, action_dim])
    fields = {
        "state": np.concatenate([p[0] for p in parts]),
        "action": np.concatenate([p[1] for p in parts]),
        "episode_ends": np.cumsum(lengths),
        **more,
    }
    np.savez(path, **{k: v for k, v in fields.items() if v is not None})
    return path


def write_lerobot(
    folder: Path,
    lengths: Sequence[int] = LENGTHS,
    obs_dim: int = 19,
    action_dim: int = 7,
    n_files: int = 2,
    version: str = "v3.0",
    splits: dict[str, str] | None = None,
) -> Path:
    import pyarrow
    import pyarrow.parquet

    (folder / "meta").mkdir(parents=True)
    info = {"codebase_version": version, "splits": splits or {"train": f"0:{len(lengths)}"}}
    (folder / "meta/info.json").write_text(json.dumps(info))
    rows = [
        {
            "observation.state": obs.tolist(),
            "action": action.tolist(),
            "episode_index": episode,
            "frame_index": frame,
        }
        for episode, parts in enumerate(episodes(lengths, [obs_dim, action_dim]))
        for frame, (obs, action) in enumerate(zip(*parts, strict=True))
    ]
    for number, part in enumerate(np.array_split(np.arange(len(rows)), n_files)):
        file = folder / f"data/chunk-000/file-{number:03d}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([rows[i] for i in part]), file)
    return folder
