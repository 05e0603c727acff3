"""File formats of demonstrations: robomimic's HDF5, LeRobot's folder, and npz."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from .episode import DatasetError, Episode
from .lerobot import read_lerobot
from .npz import read_npz
from .robomimic import read_robomimic
from .wanted import Wanted

Reader = Callable[[Path, Wanted], Iterator[Episode]]


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


READERS: dict[str, Reader] = {
    "robomimic": read_robomimic,
    "lerobot": read_lerobot,
    "npz": read_npz,
}
SUFFIXES = {".hdf5": "robomimic", ".h5": "robomimic", ".npz": "npz"}
