"""Datasets as a folder in LeRobot's layout, version v3.0: parquet for frames and for episodes.

Images are PNG files in the rows of the frames; there are no videos. Numbers are float32, as LeRobot
has them; `simulator_state` keeps its float64 for exact replays.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipstep.observations import IMAGE, STATE, Arrays, is_image

from . import lerobot_images as images
from .demos import Demo, DemoSet

VERSION = "v3.0"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
TASKS, INFO, STATS, RUN = (
    "meta/tasks.parquet",
    "meta/info.json",
    "meta/stats.json",
    "meta/skipstep.json",
)
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}

CAMERA = "observation.images."

Frames = dict[str, NDArray[Any]]


def write(path: Path, content: DemoSet) -> None:
    """Write beside `path`, then move into place; the same episodes give the same bytes."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for name in (DATA.format(chunk_index=0, file_index=0), EPISODES):
            (temporary / name).parent.mkdir(parents=True)
        _write_parts(temporary, content)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def owner(path: Path) -> str | None:
    """The fingerprint of the run that wrote this folder, if it is one of ours."""
    try:
        return str(json.loads((path / RUN).read_text())["run"])
    except (OSError, ValueError, KeyError):
        return None


def _write_parts(root: Path, content: DemoSet) -> None:
    import pyarrow.parquet as pq

    everything: list[Frames] = []
    seen: dict[str, NDArray[np.int64]] = {}
    episodes: list[dict[str, Any]] = []
    start = 0
    writer = None
    try:
        for index, demo in enumerate(content.demos):
            frames = _frames(content, demo, index, start)
            table = _table(frames)
            if writer is None:
                writer = pq.ParquetWriter(
                    root / DATA.format(chunk_index=0, file_index=0), table.schema
                )
            writer.write_table(table)  # a row group for each episode
            episodes.append(_episode(content, index, start, frames))
            for key in filter(_shows, frames):
                seen[key] = seen.get(key, 0) + images.counts(frames[key])
            # of images the first one will do for what is said of all
            everything.append({k: v[:1] if _shows(k) else v for k, v in frames.items()})
            start += len(frames["index"])
    finally:
        if writer is not None:
            writer.close()
    merged = {key: np.concatenate([f[key] for f in everything]) for key in everything[0]}
    pq.write_table(_tasks(content.task.instruction or content.task.name), root / TASKS)
    _write_episodes(root / EPISODES, episodes)
    stats = {k: _stats(v) for k, v in merged.items() if not _shows(k)}
    stats |= {k: images.statistics(held, start, QUANTILES) for k, held in seen.items()}
    (root / STATS).write_text(json.dumps(stats, indent=4))
    (root / INFO).write_text(json.dumps(_info(content, merged), indent=4))
    run = {
        "run": content.fingerprint,
        "seeds": [d.seed for d in content.demos],
        "sigmas": [d.sigma for d in content.demos],
        "valid": content.valid(),
        "env_args": content.task.env_args(),
    }
    (root / RUN).write_text(json.dumps(run, indent=4))


def _frames(content: DemoSet, demo: Demo, index: int, start: int) -> Frames:
    steps = demo.load()
    n = np.arange(len(steps))
    success = np.zeros(len(steps), bool)
    success[-1] = demo.success
    frames: Frames = {
        **_seen(steps.obs),
        "action": steps.actions.astype(np.float32),
        "next.reward": steps.rewards.astype(np.float32),
        "next.done": steps.dones.astype(bool),
        "next.success": success,
        "simulator_state": steps.states[:-1],
        "timestamp": (n / content.task.control_hz).astype(np.float32),
        "frame_index": n,
        "episode_index": np.full(len(steps), index),
        "index": start + n,
        "task_index": np.zeros(len(steps), np.int64),
    }
    if not steps.states.shape[1]:
        del frames["simulator_state"]
    return frames


def _seen(obs: Arrays) -> Frames:
    arrays = obs if isinstance(obs, Mapping) else {STATE: obs}
    return {
        f"{CAMERA}{name.removeprefix(IMAGE)}" if is_image(name) else f"observation.{name}": (
            a[:-1] if is_image(name) else a[:-1].astype(np.float32)
        )
        for name, a in arrays.items()
    }


def _shows(key: str) -> bool:
    return key.startswith(CAMERA)


def _table(frames: Mapping[str, NDArray[Any]]) -> Any:
    import pyarrow as pa

    def column(key: str, values: NDArray[Any]) -> Any:
        if _shows(key):
            return images.column(values)
        flat, width = pa.array(values.ravel()), values[0].size
        return pa.FixedSizeListArray.from_arrays(flat, width) if width > 1 else flat  # as LeRobot

    return pa.table({key: column(key, values) for key, values in frames.items()})


def _stats(values: NDArray[Any]) -> dict[str, list[float]]:
    rows = values.reshape(len(values), -1).astype(np.float64)
    found = {
        **{name: getattr(rows, name)(axis=0) for name in ("min", "max", "mean", "std")},
        "count": np.array([len(rows)]),
        **{name: np.quantile(rows, q, axis=0) for name, q in QUANTILES.items()},
    }
    return {name: value.tolist() for name, value in found.items()}


def _episode(content: DemoSet, index: int, start: int, frames: Frames) -> dict[str, Any]:
    length = len(frames["index"])
    stats = {
        key: images.statistics(images.counts(values), length, QUANTILES)
        if _shows(key)
        else _stats(values)
        for key, values in frames.items()
    }
    return {
        "episode_index": index,
        "tasks": [content.task.instruction or content.task.name],
        "length": length,
        "data/chunk_index": 0,
        "data/file_index": 0,
        "dataset_from_index": start,
        "dataset_to_index": start + length,
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
        **{
            f"stats/{key}/{name}": value
            for key, found in stats.items()
            for name, value in found.items()
        },
    }


def _write_episodes(path: Path, episodes: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(episodes), path)


def _tasks(instruction: str) -> Any:
    """One task; LeRobot reads it with pandas, whose index is the task's words."""
    import pyarrow as pa

    def named(name: str, kind: str, numpy_kind: str) -> dict[str, Any]:
        names = {"name": name, "field_name": name}
        return {**names, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}

    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [named("task_index", "int64", "int64"), named("task", "unicode", "object")],
        "attributes": {},
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    table = pa.table({"task_index": pa.array([0], pa.int64()), "task": [instruction]})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _info(content: DemoSet, frames: Frames) -> dict[str, Any]:
    hz = content.task.control_hz
    return {
        "codebase_version": VERSION,
        "robot_type": None,
        "total_episodes": len(content.demos),
        "total_frames": len(frames["index"]),
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": int(hz) if hz == int(hz) else hz,
        "splits": {"train": f"0:{len(content.demos)}"},
        "data_path": DATA,
        "video_path": None,
        "features": {
            key: images.feature(values) if _shows(key) else _feature(values)
            for key, values in frames.items()
        },
    }


def _feature(values: NDArray[Any]) -> dict[str, Any]:
    return {"dtype": str(values.dtype), "shape": [values[0].size], "names": None}
