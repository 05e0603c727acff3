"""Demonstrations, in each format that training reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from policies import DatasetError, read_dataset

from .kind import Kind

LENGTHS = (5, 4)


def _make_npz(folder: Path) -> Path:
    n, rng = sum(LENGTHS), np.random.default_rng(0)
    obs, action = rng.normal(size=(n, 3)), rng.normal(size=(n, 2))
    np.savez(folder / "a.npz", obs=obs, action=action, episode_ends=np.cumsum(LENGTHS))
    return folder / "a.npz"


def _make_hdf5(folder: Path) -> Path:
    import h5py

    with h5py.File(folder / "a.hdf5", "w") as file:
        for i, n in enumerate(LENGTHS):
            demo = file.create_group(f"data/demo_{i}")
            demo.attrs["num_samples"] = n
            demo["actions"], demo["obs/object"] = np.ones((n, 2)), np.ones((n, 3), np.float32)
    return folder / "a.hdf5"


def _make_lerobot_data(folder: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    path = folder / "set"
    (path / "meta").mkdir(parents=True)
    (path / "data/chunk-000").mkdir(parents=True)
    info = {"codebase_version": "v3.0", "splits": {"train": f"0:{len(LENGTHS)}"}, "fps": 10}
    (path / "meta/info.json").write_text(json.dumps(info))
    rows = [
        {"observation.state": [0.1] * 3, "action": [0.2] * 2, "episode_index": e, "frame_index": f}
        for e, n in enumerate(LENGTHS)
        for f in range(n)
    ]
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, path / "data/chunk-000/file-000.parquet")
    return path


def _read_data(path: Path) -> Any:
    return read_dataset([path], obs_keys=["object"] if path.suffix == ".hdf5" else None)


def _whole_data(found: Any, before: Any, path: Path) -> str:
    arrays = [found.action, *found.numbers.values()]
    if any(not np.isfinite(array).all() for array in arrays):
        return "numbers are not finite"
    lengths = np.diff(found.ends, prepend=0)
    if any(len(array) != lengths.sum() for array in arrays) or min(lengths) < 1:
        return f"episodes end at {found.ends.tolist()}, of {[len(a) for a in arrays]} steps"
    return ""


KINDS: dict[str, Kind] = {
    "npz data": Kind(_make_npz, _read_data, (DatasetError,), _whole_data),
    "HDF5 data": Kind(_make_hdf5, _read_data, (DatasetError,), _whole_data),
    "LeRobot data": Kind(_make_lerobot_data, _read_data, (DatasetError,), _whole_data),
}
