"""LeRobot's folders, versions 2 and 3: parquet for numbers and stills, MP4 for videos."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipstep.plain_files import read_json

from .dataset_info import environment_of, names_of
from .episode import DatasetError, Episode, as_dataset_error, fields_of, join, readable
from .lerobot_cameras import FILE, ROW, Camera, cameras_of
from .wanted import Wanted, missing

STATE_KEYS = ("observation.state",)
DATA_FILES = {  # by the version of the format
    "v2": "data/chunk-*/episode_*.parquet",
    "v3": "data/chunk-*/file-*.parquet",
}


def read_lerobot(path: Path, wanted: Wanted) -> Iterator[Episode]:
    """LeRobot's folder: meta/info.json, data/chunk-*/*.parquet, and videos/ of cameras."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            'a LeRobot dataset needs pyarrow: pip install "skipstep[data]"'
        ) from error
    with readable(path), contextlib.ExitStack() as stack:
        stack.enter_context(as_dataset_error(path, (pyarrow.ArrowInvalid, pyarrow.ArrowException)))
        folder = _Folder.of(path, wanted)
        table = folder.table()
        environment = environment_of(path)
        called = {key: names_of(folder.features, key) for key in folder.keys}
        splits = _splits(path, folder.info.get("splits"))
        for column in ("episode_index", "frame_index"):
            if table[column].null_count or not pyarrow.types.is_integer(table[column].type):
                raise DatasetError(f"{path}: {column} must hold whole numbers in every frame")
        episode = table["episode_index"].to_numpy()
        for number in np.unique(episode):
            name = f"{path}: episode {number}"
            rows = np.flatnonzero(episode == number)
            part = table.slice(int(rows[0]), len(rows))
            _check_frames(name, part["frame_index"].to_numpy())
            read = (*folder.keys, *folder.numbers.values(), "action")
            values = {key: _stacked(name, key, part[key].to_pylist()) for key in read}
            parts = [(key, values[key]) for key in folder.keys]
            yield Episode(
                name,
                join(name, parts) if parts else np.empty((len(rows), 0)),
                join(name, [("action", values["action"])]),
                split=_slice_side(int(number), splits),
                fields=fields_of(parts, called),
                environment=environment,
                arrays={
                    ours: join(name, [(key, values[key])]) for ours, key in folder.numbers.items()
                },
                clips={
                    ours: camera.clip(int(number), part) for ours, camera in folder.cameras.items()
                },
            )


@dataclass(frozen=True)
class _Folder:
    """What is read of a folder, once it is known to be there.

    Attributes:
        path: of it.
        info: what meta/info.json says.
        files: of its frames.
        keys: fields of `state`.
        numbers: {array of ours: field}.
        cameras: {image of ours: where it is}.
    """

    path: Path
    info: Mapping[str, Any]
    files: list[Path]
    keys: tuple[str, ...]
    numbers: Mapping[str, str]
    cameras: Mapping[str, Camera]

    @classmethod
    def of(cls, path: Path, wanted: Wanted) -> _Folder:
        from pyarrow import parquet

        info = read_json(path / "meta" / "info.json")
        if not isinstance(info, dict):
            raise DatasetError(f"{path}: meta/info.json must hold a dictionary")
        version = str(info.get("codebase_version", ""))
        pattern = DATA_FILES.get(version.partition(".")[0])
        if pattern is None:
            raise DatasetError(
                f"{path}: codebase_version must be {' or '.join(f'{v}.x' for v in DATA_FILES)}, "
                f"got {version!r}"
            )
        if "fps" in info:
            wanted.check_rate(f"{path}/meta/info.json: fps", info["fps"])
        files = sorted(path.glob(pattern))
        if not files:
            raise DatasetError(f"{path}: no {pattern} in it")
        columns = parquet.read_schema(files[0]).names
        numbers = {name: f"observation.{name}" for name in wanted.numbers}
        for name, key in numbers.items():
            if key not in columns:
                raise missing(str(path), key, name, wanted.arrays[name], columns)
        cameras = cameras_of(path, info, files, wanted)
        found = cls(path, info, files, wanted.state_keys(STATE_KEYS), numbers, cameras)
        for column in found.columns:
            if column not in columns:
                raise DatasetError(f"{files[0]}: no column {column}, it holds {', '.join(columns)}")
        return found

    @property
    def features(self) -> Any:
        return self.info.get("features")

    @property
    def columns(self) -> list[str]:
        timed = any(camera.timed for camera in self.cameras.values())
        places = ["episode_index", "frame_index", *(["timestamp"] if timed else [])]
        return [*self.keys, *self.numbers.values(), "action", *places]

    def table(self) -> Any:
        """The numbers of all frames in order, and where each frame is stored."""
        import pyarrow
        from pyarrow import parquet

        tables = []
        for number, file in enumerate(self.files):
            table = parquet.read_table(file, columns=self.columns)
            where = {FILE: np.full(len(table), number), ROW: np.arange(len(table))}
            for name, values in where.items():
                table = table.append_column(name, pyarrow.array(values, pyarrow.int64()))
            tables.append(table)
        return pyarrow.concat_tables(tables).sort_by(
            [("episode_index", "ascending"), ("frame_index", "ascending")]
        )


def _check_frames(name: str, index: NDArray[np.int64]) -> None:
    """Each frame is there, and once."""
    wrong = np.flatnonzero(index != np.arange(len(index)))
    if len(wrong):
        raise DatasetError(
            f"{name}: frame_index must count its frames from 0, got {index[wrong[0]]} for the "
            f"{wrong[0] + 1}. of {len(index)}"
        )


def _stacked(name: str, key: str, rows: list[Any]) -> NDArray[Any]:
    sizes = {len(row) if isinstance(row, list) else None for row in rows}
    if len(sizes) != 1:
        raise DatasetError(f"{name}: {key} has rows of different sizes {sorted(map(str, sizes))}")
    return np.array(rows, np.float64)


def _splits(path: Path, said: Any) -> dict[str, range]:
    """LeRobot's splits are slices, {"train": "0:90"}; one that covers everything says nothing."""
    if said is None:
        return {}
    slices = said.items() if isinstance(said, dict) else [("", said)]
    for text in (text for _, text in slices):
        if not (isinstance(text, str) and re.fullmatch(r"[0-9]{1,12}:[0-9]{1,12}", text)):
            raise DatasetError(
                f'{path}: splits in meta/info.json must be slices, such as "0:90", got {text!r}'
            )
    return {side: range(*map(int, text.split(":"))) for side, text in slices}


def _slice_side(number: int, splits: Mapping[str, range]) -> str:
    if not {"train", "valid"} <= splits.keys():
        return ""
    sides = (side for side in ("train", "valid") if number in splits[side])
    return next(sides, "unused")
