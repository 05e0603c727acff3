"""One demonstration as it is in a file, and what is checked while it is read."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .dataset_info import NOT_ASKED
from .observation_order import Field

if TYPE_CHECKING:
    from .pictures import Clip


class DatasetError(ValueError):
    """A dataset that cannot be trained on; one line with the file, the episode and the field."""


@dataclass
class Episode:
    """One demonstration as it is in the file.

    Attributes:
        name: file and episode, for messages.
        obs: (n_steps, obs_dim), the array `state`.
        action: (n_steps, action_dim).
        split: "train", "valid" or "" where the file does not say.
        source: (file, number) of the demonstration it was made from; None: it is one itself.
        derived: the file names a source.
        fields: what the observation is made of.
        environment: robomimic's env_args, as the file has them (text, or a dictionary); None: it
            has a place for them and says nothing; NOT_ASKED: it has no such place.
        arrays: the other arrays of numbers, (n_steps, d) by our names.
        clips: the images, by our names.
    """

    name: str
    obs: NDArray[Any]
    action: NDArray[Any]
    split: str = ""
    source: tuple[int, int] | None = None
    derived: bool = False
    fields: tuple[Field, ...] = ()
    environment: Any = NOT_ASKED
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    clips: dict[str, Clip] = field(default_factory=dict)


def join(name: str, parts: Sequence[tuple[str, Any]]) -> NDArray[Any]:
    """Fields side by side, (n, d) each; a vector counts as one column."""
    columns = [(key, _column(value)) for key, value in parts]
    for key, value in columns:
        if value.ndim != 2 or value.dtype.kind not in "iuf":  # neither text nor complex numbers
            raise DatasetError(
                f"{name}: {key} must hold (steps, numbers), got {value.dtype} {value.shape}"
            )
        if len(value) and not value.shape[1]:
            raise DatasetError(f"{name}: {key} has rows of no numbers")
        if len(value) != len(columns[0][1]):
            raise DatasetError(
                f"{name}: {key} has {len(value)} steps, {columns[0][0]} has {len(columns[0][1])}"
            )
    return np.concatenate([value for _, value in columns], axis=1)


def _column(value: Any) -> NDArray[Any]:
    array = np.asarray(value)
    return array[:, None] if array.ndim == 1 else array


def fields_of(
    parts: Sequence[tuple[str, Any]], names: Mapping[str, tuple[str, ...] | None] | None = None
) -> tuple[Field, ...]:
    """What `join` puts side by side."""
    names = names or {}
    return tuple(Field(key, _column(value).shape[1], names.get(key)) for key, value in parts)


@contextlib.contextmanager
def as_dataset_error(path: Path, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except errors as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error


def readable(path: Path) -> contextlib.AbstractContextManager[None]:
    """Whatever is wrong with a file becomes one line with its name."""
    damaged = (OSError, EOFError, LookupError, RuntimeError, TypeError, ValueError)
    further = (AttributeError, ArithmeticError, MemoryError, zipfile.BadZipFile)
    return as_dataset_error(path, (*damaged, *further))
