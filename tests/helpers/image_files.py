"""Tiny datasets with images in the layouts that people have, written on the spot."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray
from PIL import Image

from skipstep.observations import ObservationSpec

Arrays = dict[str, NDArray[Any]]
SHAPE = (3, 12, 16)
LENGTHS = (6, 4, 9)
FPS = 10
SPEC = ObservationSpec.of({"state": 3, "image.top": SHAPE}, FPS)
LOSSLESS = {"libx264rgb": {"crf": "0"}, "libx264": {"crf": "0"}, "libsvtav1": {"crf": "20"}}


def frames(n: int, seed: int, shape: Sequence[int] = SHAPE) -> NDArray[np.uint8]:
    """(n, H, W, C): blocks whose places and colours change from step to step."""
    channels, height, width = shape
    step, row, column, channel = np.indices((n, height, width, channels))
    waves = np.sin(0.5 * row + step + seed) + np.cos(0.4 * column - 0.7 * step + channel)
    return np.asarray(127.5 + 60 * waves, np.uint8)


def episodes(
    spec: ObservationSpec = SPEC, lengths: Sequence[int] = LENGTHS, action_dim: int = 2
) -> list[Arrays]:
    """Arrays of each episode by our names, images (n, H, W, C), and "action"."""
    rng = np.random.default_rng(0)
    found = []
    for number, n in enumerate(lengths):
        arrays: Arrays = {"action": rng.uniform(-1, 1, (n, action_dim)).astype(np.float32)}
        for i, name in enumerate(spec):
            shape = spec[name].shape
            arrays[name] = (
                frames(n, 10 * number + i, shape)
                if name in spec.images
                else rng.uniform(-1, 1, (n, *shape)).astype(np.float32)
            )
        found.append(arrays)
    return found


def write_robomimic(path: Path, episodes: Sequence[Arrays], **compression: Any) -> Path:
    with h5py.File(path, "w") as file:
        for i, arrays in enumerate(episodes):
            demo = file.create_group(f"data/demo_{i}")
            demo["actions"] = arrays["action"]
            for name, values in arrays.items():
                kind, _, camera = name.partition(".")
                if kind == "image":
                    demo.create_dataset(f"obs/{camera}_image", data=values, **compression)
                elif name == "environment_state":
                    demo[f"obs/{name}"] = values
                elif name == "state":
                    demo["obs/obs"] = values
    return path


def write_lerobot(
    folder: Path,
    episodes: Sequence[Arrays],
    version: str = "v3.0",
    kind: str = "image",
    fps: float = FPS,
    codec: str = "libx264rgb",
    group: int = 2,
    keys: Mapping[str, str] | None = None,
    info: Mapping[str, Any] | None = None,
) -> Path:
    """A LeRobot folder.

    Args:
        version: v2.1, a file for each episode; v3.0, several in one.
        kind: of cameras, image or video.
        fps: of timestamps and of the videos.
        codec, group: of the videos, and how many frames there are to a key frame.
        keys: {array of ours: its key here}, where it is not the usual one.
        info: changes to info.json.
    """
    writer = _V2(folder) if version.startswith("v2") else _V3(folder)
    named = {name: (keys or {}).get(name) or _key(name) for name in episodes[0] if name != "action"}
    start = 0
    for number, arrays in enumerate(episodes):
        n = len(arrays["action"])
        columns: dict[str, Any] = {"action": pyarrow.array(list(arrays["action"]))}
        for name, key in named.items():
            if not name.startswith("image."):
                columns[key] = pyarrow.array(list(arrays[name]))
            elif kind == "image":
                cells = [{"bytes": png(frame), "path": None} for frame in arrays[name]]
                columns[key] = pyarrow.array(cells, _CELL)
            else:
                writer.video(key, number, arrays[name], start / fps, fps, codec, group)
        columns["timestamp"] = pyarrow.array((np.arange(n) / fps).astype(np.float32))
        columns["frame_index"] = pyarrow.array(np.arange(n))
        columns["episode_index"] = pyarrow.array(np.full(n, number))
        columns["index"] = pyarrow.array(start + np.arange(n))
        writer.rows(number, pyarrow.table(columns))
        start += n
    features = {
        key: {
            "dtype": kind if name.startswith("image.") else "float32",
            "shape": list(episodes[0][name].shape[1:]),
            "names": ["height", "width", "channel"] if name.startswith("image.") else None,
        }
        for name, key in named.items()
    }
    said = {"codebase_version": version, "fps": fps, "chunks_size": 1000, "features": features}
    writer.close(codec, group, fps)
    (folder / "meta").mkdir(exist_ok=True)
    (folder / "meta/info.json").write_text(json.dumps({**said, **(info or {})}))
    return folder


_CELL = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def _key(name: str) -> str:
    return f"observation.{name.replace('image.', 'images.')}"


def png(frame: NDArray[np.uint8], form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame.squeeze()).save(file, form)
    return file.getvalue()


class _V2:
    """A parquet file and a video for each episode, two episodes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rows(self, number: int, table: pyarrow.Table) -> None:
        file = self.folder / f"data/chunk-000/episode_{number:06d}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table, file, row_group_size=3)

    def video(
        self,
        key: str,
        number: int,
        images: NDArray[np.uint8],
        start_s: float,
        fps: float,
        codec: str,
        group: int,
    ) -> None:
        file = self.folder / f"videos/chunk-000/{key}/episode_{number:06d}.mp4"
        write_video(file, images, fps, codec, group)

    def close(self, codec: str, group: int, fps: float) -> None: ...


class _V3:
    """All episodes but the last in the first files, the last one in the second ones."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tables: list[pyarrow.Table] = []
        self.images: dict[str, list[NDArray[np.uint8]]] = {}

    def rows(self, number: int, table: pyarrow.Table) -> None:
        self.tables.append(table)

    def video(self, key: str, number: int, images: NDArray[np.uint8], *_: Any) -> None:
        self.images.setdefault(key, []).append(images)

    def close(self, codec: str, group: int, fps: float) -> None:
        data, meta = self.folder / "data/chunk-000", self.folder / "meta/episodes/chunk-000"
        for folder in (data, meta):
            folder.mkdir(parents=True)
        parts = self.tables[:-1], self.tables[-1:]
        for number, part in enumerate(part for part in parts if part):
            pyarrow.parquet.write_table(
                pyarrow.concat_tables(part), data / f"file-{number:03d}.parquet", row_group_size=4
            )
        rows: list[dict[str, Any]] = [
            {"episode_index": i, "length": len(table)} for i, table in enumerate(self.tables)
        ]
        for key, clips in self.images.items():
            start = 0.0
            for i, images in enumerate(clips):
                last = i == len(clips) - 1
                start = 0.0 if last else start
                rows[i] |= {
                    f"videos/{key}/chunk_index": 0,
                    f"videos/{key}/file_index": int(last),
                    f"videos/{key}/from_timestamp": start,
                    f"videos/{key}/to_timestamp": start + len(images) / fps,
                }
                start += len(images) / fps
            for number, part in enumerate((clips[:-1], clips[-1:])):
                file = self.folder / f"videos/{key}/chunk-000/file-{number:03d}.mp4"
                write_video(file, np.concatenate(part), fps, codec, group)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), meta / "file-000.parquet")


def write_video(
    file: Path, images: NDArray[np.uint8], fps: float, codec: str = "libx264rgb", group: int = 2
) -> Path:
    """(n, H, W, 3) as MP4; without loss where the codec can."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={**LOSSLESS[codec], "g": str(group)})
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "rgb24" if codec == "libx264rgb" else "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return file
