"""The cameras of a LeRobot folder: which one is an image of the task, and where its frames are."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from skipstep.observations import IMAGE, ArraySpec

from .episode import DatasetError
from .pictures import Clip
from .stills import StillClip, Stills
from .videos import Video, VideoClip
from .wanted import Wanted, missing, warn_of_others

MANY, ONLY = "observation.images.", "observation.image"
CHUNK = 1000  # episodes a folder where info.json does not say
Place = tuple[Path, float, float]
FILE, ROW = "skipstep.file", "skipstep.row"  # columns of ours: where a frame is stored


class Camera(ABC):
    """Where the images of a camera are; `timed`: they are found by the frames' timestamps."""

    timed: ClassVar[bool] = False

    @abstractmethod
    def clip(self, episode: int, frames: Any) -> Clip:
        """The images of an episode.

        Args:
            episode: its number.
            frames: its rows in a table, with FILE and ROW among the columns.
        """


@dataclass(frozen=True)
class StillCamera(Camera):
    """In a column of the parquet files."""

    stills: Stills

    def clip(self, episode: int, frames: Any) -> Clip:
        files, rows = (frames[name].to_numpy() for name in (FILE, ROW))
        return StillClip(self.stills, files, rows)


@dataclass(frozen=True)
class VideoCamera(Camera):
    """In MP4 files.

    Attributes:
        key: of the camera.
        shape: (C, H, W) of its images.
        place: episode -> (file, seconds before it begins there, and before the next one does).
    """

    timed: ClassVar[bool] = True

    key: str
    shape: tuple[int, ...]
    place: Callable[[int], Place]
    videos: dict[Path, Video] = field(default_factory=dict)

    def clip(self, episode: int, frames: Any) -> Clip:
        path, start, end = self.place(episode)
        if path not in self.videos:
            self.videos[path] = Video(path)
        video = self.videos[path]
        if video.shape != self.shape:
            raise DatasetError(
                f"{path}: {self.key} must be of {ArraySpec(self.shape)}, "
                f"got {ArraySpec(video.shape)}"
            )
        times = frames["timestamp"].to_numpy().astype(np.float64) + start
        if not times.max() < end:
            raise DatasetError(
                f"{path}: from_timestamp of meta/episodes must be where an episode begins: episode "
                f"{episode} has frames from {start:g} to {times.max():g} s, another begins at "
                f"{end:g} s"
            )
        return VideoClip(video, video.find(times, f"episode {episode}"))


def cameras_of(
    path: Path, info: Mapping[str, Any], files: Sequence[Path], wanted: Wanted
) -> dict[str, Camera]:
    """{image of the task: where it is}.

    Args:
        path: of the folder.
        info: what its meta/info.json says.
        files: parquet files of its frames.
        wanted: the task's images.

    Raises:
        DatasetError: one is not there, or has another size.
    """
    if not wanted.images:
        return {}
    features = info.get("features")
    held = {
        key: feature
        for key, feature in (features if isinstance(features, dict) else {}).items()
        if isinstance(feature, dict) and feature.get("dtype") in KINDS
    }
    found: dict[str, Camera] = {}
    used = set()
    for name, array in wanted.images.items():
        key = _key_of(name, held, len(wanted.images))
        if key is None:
            raise missing(str(path), MANY + name.removeprefix(IMAGE), name, array, features or ())
        _check_shape(f"{path}/meta/info.json: {key}", held[key], array.shape)
        found[name] = KINDS[held[key]["dtype"]](path, info, key, files, array.shape, wanted)
        used.add(key)
    warn_of_others(str(path), held.keys() - used, wanted.images)
    return found


def _key_of(name: str, held: Mapping[str, Any], n_images: int) -> str | None:
    """LeRobot's key of an image of ours; a single camera may be `observation.image`."""
    camera = name.removeprefix(IMAGE)
    keys = [MANY + camera, *([ONLY] if n_images == 1 or camera == "image" else [])]
    return next((key for key in keys if key in held), None)


def _check_shape(where: str, feature: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    """Compare what info.json says of an image; its `names` say which number is which."""
    said = feature.get("shape")
    if not isinstance(said, list) or len(said) != 3:
        return  # the images themselves are looked at
    got = tuple(said) if _channels_first(feature, shape) else (said[2], *said[:2])
    if got != shape:
        raise DatasetError(f"{where} must be of {ArraySpec(shape)}, got {ArraySpec(got)}")


def _channels_first(feature: Mapping[str, Any], shape: tuple[int, ...]) -> bool:
    names, said = feature.get("names"), feature["shape"]
    if isinstance(names, list) and len(names) == len(said):
        return "channel" in str(names[0])
    return bool(said[0] == shape[0] != said[2])


def _stills(
    path: Path,
    info: Mapping[str, Any],
    key: str,
    files: Sequence[Path],
    shape: tuple[int, ...],
    wanted: Wanted,
) -> Camera:
    from pyarrow import parquet, types

    schema = parquet.read_schema(files[0])
    if key not in schema.names:
        raise DatasetError(f"{files[0]}: no column {key}, it holds {', '.join(schema.names)}")
    kind = schema.field(key).type
    if not types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise DatasetError(f"{files[0]}: {key} must hold bytes of PNG or JPEG files, got {kind}")
    return StillCamera(Stills(files, key, shape, wanted.cache))


def _videos(
    path: Path,
    info: Mapping[str, Any],
    key: str,
    files: Sequence[Path],
    shape: tuple[int, ...],
    wanted: Wanted,
) -> Camera:
    if str(info["codebase_version"]).startswith("v2"):
        return VideoCamera(key, shape, _one_each(path, key, int(info.get("chunks_size", CHUNK))))
    return VideoCamera(key, shape, _many_in_one(path, key))


def _one_each(path: Path, key: str, chunk: int) -> Callable[[int], Place]:
    """Version 2: a video for each episode."""

    def place(episode: int) -> Place:
        folder = path / "videos" / f"chunk-{episode // chunk:03d}" / key
        return folder / f"episode_{episode:06d}.mp4", 0.0, math.inf

    return place


def _many_in_one(path: Path, key: str) -> Callable[[int], Place]:
    """Version 3: episodes one after the other; meta/episodes says where each begins."""
    from pyarrow import concat_tables, parquet

    said = [f"videos/{key}/{n}" for n in ("chunk_index", "file_index", "from_timestamp")]
    files = sorted(path.glob("meta/episodes/chunk-*/file-*.parquet"))
    if not files:
        raise DatasetError(f"{path}: no meta/episodes/chunk-*/file-*.parquet in it")
    columns = parquet.read_schema(files[0]).names
    for column in ("episode_index", *said):
        if column not in columns:
            raise DatasetError(f"{files[0]}: no column {column}, it holds {', '.join(columns)}")
    tables = [parquet.read_table(file, columns=["episode_index", *said]) for file in files]
    rows = {row.pop("episode_index"): row for row in concat_tables(tables).to_pylist()}
    starts: dict[tuple[int, int], list[float]] = {}
    for chunk, file, start in sorted(
        tuple(row[column] for column in said) for row in rows.values()
    ):
        starts.setdefault((chunk, file), []).append(start)

    def place(episode: int) -> Place:
        if episode not in rows:
            raise DatasetError(f"{path}: meta/episodes says nothing of episode {episode}")
        chunk, file, start = (rows[episode][column] for column in said)
        later = starts[chunk, file][bisect_left(starts[chunk, file], start) + 1 :]
        end = later[0] if later else math.inf
        folder = path / "videos" / key / f"chunk-{chunk:03d}"
        return folder / f"file-{file:03d}.mp4", float(start), float(end)

    return place


KINDS = {"image": _stills, "video": _videos}
"""By the `dtype` of a feature."""
