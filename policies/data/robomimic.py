"""robomimic's HDF5: a group for each demonstration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipstep.memory import check_memory
from skipstep.observations import IMAGE, PIXELS

from .dataset_info import environment_in
from .episode import DatasetError, Episode, fields_of, join, readable
from .pictures import Pixels
from .wanted import Wanted, missing, warn_of_others

STATE_KEYS = ("obs",)
SUFFIX = "_image"
MOST_PACKED, LEAST_BYTES = 1100, 2**20  # deflate makes at most 1032 bytes of one


def read_robomimic(path: Path, wanted: Wanted) -> Iterator[Episode]:
    """Robomimic's HDF5: data/demo_i with actions and obs/<key>, and mask/train, mask/valid.

    Images are obs/<camera>_image or obs/<camera>, (T, H, W, C) uint8.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError('an HDF5 dataset needs h5py: pip install "skipstep[data]"') from error
    film = Film(path)
    with readable(path), h5py.File(path, "r") as file:
        if not isinstance(file.get("data"), h5py.Group):
            raise DatasetError(f"{path}: no group data, so not a robomimic dataset")
        masks = {
            side: {
                str(n, "utf-8") if isinstance(n, bytes) else str(n)
                for n in np.atleast_1d(_stored(str(path), file["mask"], side))
            }
            for side in ("train", "valid")
            if side in _group(str(path), file, "mask", there=False)
        }
        both = masks.get("train", set()) & masks.get("valid", set())
        if both:
            raise DatasetError(f"{path}: {sorted(both)[0]} is in mask/train and in mask/valid")
        environment = environment_in(file["data"].attrs)
        demos = sorted(file["data"], key=_number)
        _warn(path, _group(str(path), file["data"], demos[0]) if demos else {}, wanted)
        for demo in demos:
            group = _group(str(path), file["data"], demo)
            _group(f"{path}: {demo}", group, "obs", there=False)
            episode = _episode(f"{path}: {demo}", group, wanted, film)
            episode.split, episode.environment = _side(demo, masks), environment
            yield episode


def _episode(name: str, group: Any, wanted: Wanted, film: Film) -> Episode:
    keys = wanted.state_keys(STATE_KEYS)
    for field in ("actions", *(f"obs/{key}" for key in (*keys, *wanted.numbers))):
        if field not in group:
            raise DatasetError(f"{name}: no {field} in it, it holds {', '.join(_held(group))}")
    parts = [(f"obs/{key}", _stored(name, group, f"obs/{key}")) for key in keys]
    obs = join(name, parts) if parts else np.empty((len(group["actions"]), 0))
    return Episode(
        name,
        obs,
        join(name, [("actions", _stored(name, group, "actions"))]),
        fields=fields_of(list(zip(keys, (v for _, v in parts), strict=True))),
        arrays={
            key: join(name, [(f"obs/{key}", _stored(name, group, f"obs/{key}"))])
            for key in wanted.numbers
        },
        clips={image: _clip(name, group, image, wanted, film) for image in wanted.images},
    )


def _group(name: str, parent: Any, key: str, there: bool = True) -> Any:
    """What holds names; an array in its place is as long to search as it claims to be.

    Args:
        name: of the parent, for the message.
        parent: holds it.
        key: what it is called.
        there: whether it must be there; if not, and it is not, it holds nothing.
    """
    held = parent[key] if there or key in parent else {}
    if not hasattr(held, "keys"):
        raise DatasetError(f"{name}: {key} must be a group, it is an array")
    return held


def _stored(name: str, group: Any, key: str) -> NDArray[Any]:
    """An array, whose size is compared with what is stored of it first."""
    held = group[key]
    if not hasattr(held, "shape"):
        raise DatasetError(f"{name}: {key} must hold numbers, it is a group")
    n_bytes, stored = held.size * held.dtype.itemsize, held.id.get_storage_size()
    if n_bytes > MOST_PACKED * stored + LEAST_BYTES:
        raise DatasetError(
            f"{name}: {key} claims to hold {held.shape} of {held.dtype}, {n_bytes} bytes, and "
            f"{stored} are stored"
        )
    check_memory(n_bytes, f"{name}: {key}")
    array: NDArray[Any] = held[()]
    return array


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


def _held(group: Any) -> list[str]:
    names = [f"obs/{k}" for k in group["obs"]] if "obs" in group else []
    return [*(k for k in group if k != "obs"), *names] or ["nothing"]


def _key(image: str, group: Any) -> str:
    """Where an image is; LIBERO's files have no suffix (obs/agentview_rgb)."""
    key = f"obs/{image.removeprefix(IMAGE)}"
    return key if key in group else f"{key}{SUFFIX}"


def _warn(path: Path, group: Any, wanted: Wanted) -> None:
    if wanted.images:
        cameras = {key for key in _held(group) if key.startswith("obs/") and key.endswith(SUFFIX)}
        seen = {_key(image, group) for image in wanted.images}
        warn_of_others(str(path), cameras - seen, wanted.images)


class Film:
    """The file again, opened when its first image is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None

    def __getitem__(self, key: str) -> Any:
        import h5py

        if self._file is None:
            self._file = h5py.File(self.path, "r")
        return self._file[key]


@dataclass(frozen=True, eq=False)
class FilmClip:
    """An episode's images of a camera.

    Attributes:
        film: that holds them.
        key: of their array (n_steps, H, W, C).
        n_steps: of the episode.
    """

    film: Film
    key: str
    n_steps: int

    def __len__(self) -> int:
        return self.n_steps

    def read(self, steps: Sequence[int]) -> Mapping[int, Pixels]:
        with readable(self.film.path):
            images = self.film[self.key]
            return {step: images[step] for step in steps}


def _clip(name: str, group: Any, image: str, wanted: Wanted, film: Film) -> FilmClip:
    """The images of a demonstration, which have the size and the kind of the task's."""
    key, array = _key(image, group), wanted.images[image]
    if key not in group:
        raise missing(name, key, image, array, _held(group))
    held = group[key]
    channels, height, width = array.shape
    if held.dtype != PIXELS or held.shape[1:] != (height, width, channels):
        raise DatasetError(
            f"{name}: {key} must be {PIXELS} (steps, {height}, {width}, {channels}), rows, columns "
            f"and channels, got {held.dtype} {held.shape}"
        )
    return FilmClip(film, held.name, len(held))
