"""File formats of demonstrations: robomimic's HDF5, LeRobot's folder, and npz."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dataset_info import environment_in, environment_of, names_of
from .episode import DatasetError, Episode, as_dataset_error, fields_of, join, readable

NPZ_OBS = ("obs", "state")
LEROBOT_OBS = ("observation.state",)
ROBOMIMIC_OBS = ("obs",)
LEROBOT_VERSION = "v3"

Reader = Callable[[Path, Iterable[str] | None], Iterator[Episode]]


def detect_kind(path: Path) -> str:
    """The kind of a dataset from its name."""
    if (path / "meta" / "info.json").is_file():
        return "lerobot"
    if not path.exists():
        raise DatasetError(f"no dataset at {path}")
    if path.suffix not in SUFFIXES:
        raise DatasetError(
            f"{path}: a dataset is a {', '.join(SUFFIXES)} file or a folder with meta/info.json"
        )
    return SUFFIXES[path.suffix]


def reader(kind: str) -> Reader:
    if kind not in READERS:
        raise DatasetError(f"runner.kind must be auto or one of {', '.join(READERS)}, got {kind!r}")
    return READERS[kind]


def read_robomimic(path: Path, obs_keys: Iterable[str] | None) -> Iterator[Episode]:
    """Robomimic's HDF5: data/demo_i with actions and obs/<key>, and mask/train, mask/valid."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError('an HDF5 dataset needs h5py: pip install "skipstep[data]"') from error
    keys = tuple(obs_keys or ROBOMIMIC_OBS)
    with readable(path), h5py.File(path, "r") as file:
        if "data" not in file:
            raise DatasetError(f"{path}: no group data, so not a robomimic dataset")
        masks = {
            side: {str(n, "utf-8") if isinstance(n, bytes) else str(n) for n in file["mask"][side]}
            for side in ("train", "valid")
            if "mask" in file and side in file["mask"]
        }
        both = masks.get("train", set()) & masks.get("valid", set())
        if both:
            raise DatasetError(f"{path}: {sorted(both)[0]} is in mask/train and in mask/valid")
        environment = environment_in(file["data"].attrs)
        for demo in sorted(file["data"], key=_number):
            group, name = file["data"][demo], f"{path}: {demo}"
            for field in ("actions", *(f"obs/{key}" for key in keys)):
                if field not in group:
                    raise DatasetError(f"{name}: no {field} in it, it holds {_held(group)}")
            parts = [(f"obs/{key}", group[f"obs/{key}"][()]) for key in keys]
            yield Episode(
                name,
                join(name, parts),
                join(name, [("actions", group["actions"][()])]),
                split=_side(demo, masks),
                fields=fields_of(list(zip(keys, (v for _, v in parts), strict=True))),
                environment=environment,
            )


def _side(demo: str, masks: dict[str, set[str]]) -> str:
    """With one mask alone, the rest is the other side; with both, the rest is left out."""
    for side, names in masks.items():
        if demo in names:
            return side
    if len(masks) == 1:
        return "valid" if "train" in masks else "train"
    return "unused" if masks else ""


def _number(demo: str) -> tuple[int, str]:
    digits = demo.rpartition("_")[2]
    return (int(digits) if digits.isdigit() else -1, demo)


def _held(group: Any) -> str:
    names = [f"obs/{k}" for k in group["obs"]] if "obs" in group else []
    return ", ".join([*(k for k in group if k != "obs"), *names]) or "nothing"


def read_lerobot(path: Path, obs_keys: Iterable[str] | None) -> Iterator[Episode]:
    """LeRobot's folder, version 3: meta/info.json and data/chunk-*/file-*.parquet."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            'a LeRobot dataset needs pyarrow: pip install "skipstep[data]"'
        ) from error
    keys = tuple(obs_keys or LEROBOT_OBS)
    with readable(path), contextlib.ExitStack() as stack:
        stack.enter_context(as_dataset_error(path, (pyarrow.ArrowInvalid, pyarrow.ArrowException)))
        info = json.loads((path / "meta" / "info.json").read_text())
        if not isinstance(info, dict):
            raise DatasetError(f"{path}: meta/info.json must hold a dictionary")
        version = str(info.get("codebase_version", ""))
        if not version.startswith(LEROBOT_VERSION):
            raise DatasetError(
                f"{path}: codebase_version must be {LEROBOT_VERSION}.x, got {version!r}"
            )
        files = sorted(path.glob("data/chunk-*/file-*.parquet"))
        if not files:
            raise DatasetError(f"{path}: no data/chunk-*/file-*.parquet in it")
        names = pyarrow.parquet.read_schema(files[0]).names
        columns = [*keys, "action", "episode_index", "frame_index"]
        for column in columns:
            if column not in names:
                raise DatasetError(f"{files[0]}: no column {column}, it holds {', '.join(names)}")
        tables = [pyarrow.parquet.read_table(file, columns=columns) for file in files]
        table = pyarrow.concat_tables(tables).sort_by(
            [("episode_index", "ascending"), ("frame_index", "ascending")]
        )
        called = {key: names_of(info.get("features"), key) for key in keys}
        environment = environment_of(path)
        episode = table["episode_index"].to_numpy()
        for number in np.unique(episode):
            name = f"{path}: episode {number}"
            rows = np.flatnonzero(episode == number)
            part = table.slice(int(rows[0]), len(rows))
            values = {key: _stacked(name, key, part[key].to_pylist()) for key in (*keys, "action")}
            parts = [(key, values[key]) for key in keys]
            yield Episode(
                name,
                join(name, parts),
                join(name, [("action", values["action"])]),
                split=_slice_side(int(number), info.get("splits") or {}),
                fields=fields_of(parts, called),
                environment=environment,
            )


def _stacked(name: str, key: str, rows: list[Any]) -> NDArray[Any]:
    sizes = {len(row) if isinstance(row, list) else None for row in rows}
    if len(sizes) != 1:
        raise DatasetError(f"{name}: {key} has rows of different sizes {sorted(map(str, sizes))}")
    return np.array(rows, np.float64)


def _slice_side(number: int, splits: dict[str, str]) -> str:
    """LeRobot's splits are slices, {"train": "0:90"}; one that covers everything says nothing."""
    if not {"train", "valid"} <= splits.keys():
        return ""
    for side in ("train", "valid"):
        low, _, high = splits[side].partition(":")
        if int(low) <= number < int(high):
            return side
    return "unused"


def read_npz(path: Path, obs_keys: Iterable[str] | None) -> Iterator[Episode]:
    """Npz with obs (or state), action and episode_ends, and source_demo of replayed episodes."""
    with readable(path), np.load(path, allow_pickle=False) as file:
        keys = tuple(obs_keys or [key for key in NPZ_OBS if key in file][:1] or NPZ_OBS[:1])
        for field in (*keys, "action", "episode_ends"):
            if field not in file:
                raise DatasetError(f"{path}: no {field} in it, it holds {', '.join(file.files)}")
        parts = [(key, file[key]) for key in keys]
        obs, fields = join(str(path), parts), fields_of(parts)
        action, ends = join(str(path), [("action", file["action"])]), file["episode_ends"]
        sources = file.get("source_demo")
    if ends.ndim != 1 or not len(ends):
        raise DatasetError(f"{path}: episode_ends is empty")
    if not np.issubdtype(ends.dtype, np.integer):
        raise DatasetError(f"{path}: episode_ends must hold integers, got {ends.dtype}")
    if len(obs) != len(action) or ends[-1] != len(action) or (np.diff(ends, prepend=0) < 1).any():
        raise DatasetError(
            f"{path}: episode_ends must rise to the number of steps, got {ends[-1]} "
            f"with {len(action)} steps of action and {len(obs)} of {keys[0]}"
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
        )


READERS: dict[str, Reader] = {
    "robomimic": read_robomimic,
    "lerobot": read_lerobot,
    "npz": read_npz,
}
SUFFIXES = {".hdf5": "robomimic", ".h5": "robomimic", ".npz": "npz"}
