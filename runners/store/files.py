"""Reading the files of a run: all that anything reads of one is read here.

A file is whole and holds what `schemas` says, or it is a `DamagedFileError` that names it. What a
run can make again, `or_nothing` counts as absent, and says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from skipstep.npz_files import open_npz
from skipstep.observation_arrays import obs_in
from skipstep.observations import Arrays
from skipstep.plain_files import PlainFileError, parse_json, read_json, read_yaml

from . import schemas
from .kinds import HASH, TEXT, Kind, KindError, list_of
from .names import EPISODES

log = logging.getLogger(__name__)

MOST_TEXT = 2**20  # bytes

T = TypeVar("T")


class StoreError(ValueError):
    """The folder holds something else, or is in use."""


class DamagedFileError(StoreError):
    """A file of a run is torn, or holds what no run writes; one line that begins with its path."""


def or_nothing(read: Callable[[Path], T | None], path: Path) -> T | None:
    """What a reader finds; None, and a warning, of a file that is damaged."""
    try:
        return read(path)
    except DamagedFileError as error:
        log.warning("%s; it counts as absent", error)
        return None


def read_result(path: Path, kind: Kind = schemas.RESULT) -> dict[str, Any] | None:
    """result.json, None where there is none.

    Raises:
        DamagedFileError: it is damaged, as in all readers of this module.
    """
    return _mapping(path, read_json, kind)


def read_status(path: Path) -> dict[str, Any] | None:
    return _mapping(path, read_json, schemas.STATUS)


def read_time(path: Path) -> dict[str, float] | None:
    """Seconds by their names, see `Clock`."""
    return _mapping(path, read_json, schemas.TIME)


def read_config(path: Path, kind: Kind = schemas.CONFIG) -> dict[str, Any] | None:
    return _mapping(path, read_yaml, kind)


def check_config(path: Path, config: dict[str, Any], kind: Kind) -> None:
    """Whether the settings that were read of this file are of a kind, too."""
    with _named(path):
        kind(config, "")


def read_overrides(path: Path) -> list[str]:
    """The words of the command line, as Hydra noted them before the run began."""
    if not path.exists():
        return []
    with _named(path):
        words = read_yaml(path)
        list_of(TEXT)(words, "it")
        return list(words)


def read_plan_digest(path: Path) -> str | None:
    """The hash of the plan that the episodes ran under."""
    text = _text(path)
    if text is not None:
        with _named(path):
            HASH(text.strip(), "the plan")
    return text and text.strip()


def read_traceback(path: Path) -> str:
    """Empty where there is none; a damaged one is shown as far as it can be."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.read(MOST_TEXT).decode(errors="replace").strip()


def read_observations(path: Path) -> Arrays | None:
    """What the policy saw in the first queries that are kept, (n, n_obs_steps, ...) each array."""
    if not path.is_file():
        return None
    with _named(path), open_npz(path) as file:
        if not file:
            raise PlainFileError("it has no arrays")
        found = obs_in(file)
        arrays = list(found.values()) if isinstance(found, dict) else [found]
        for array in arrays:
            if array.dtype.kind not in "fu" or array.ndim < 2:
                raise PlainFileError(f"it holds {array.dtype} {array.shape}, not observations")
            if len(array) != len(arrays[0]):
                raise PlainFileError("its arrays have different lengths")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise PlainFileError("it holds NaN or infinite values")
        return found


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a training's metrics.jsonl; those that are damaged are warned of."""
    rows, damaged = _lines(path, schemas.METRICS)
    if damaged:
        log.warning("%s is damaged: %s; such lines count as absent", path, damaged[0])
    return rows


@dataclass(frozen=True)
class Episodes:
    """The records of episodes.jsonl.

    Attributes:
        records: {seed: the newest record of it}.
        damaged: lines that are no records, each as "line 3: why".
    """

    records: dict[int, dict[str, Any]]
    damaged: list[str]


def read_lines(folder: Path) -> Episodes:
    """What of episodes.jsonl is whole; a last line that was cut off is no damage.

    Raises:
        DamagedFileError: it cannot be read at all.
    """
    rows, damaged = _lines(folder / EPISODES, schemas.episode)
    return Episodes({row["seed"]: row for row in rows}, damaged)


def read_episodes(folder: Path) -> dict[int, dict[str, Any]]:
    """{seed: record}; damaged lines are warned of, and their seeds are missing."""
    found = read_lines(folder)
    if found.damaged:
        log.warning("%s", damaged_lines(folder, found))
    return found.records


def damaged_lines(folder: Path, found: Episodes) -> str:
    """What is wrong with episodes.jsonl, in one line."""
    more = f", and {len(found.damaged) - 1} more lines" if len(found.damaged) > 1 else ""
    return f"{folder / EPISODES} is damaged: {found.damaged[0]}{more}"


def _lines(path: Path, kind: Kind) -> tuple[list[dict[str, Any]], list[str]]:
    """The whole lines of a file, and why others are none; a last one that was cut off is left."""
    if not path.exists():
        return [], []
    with _named(path):
        whole = path.read_bytes().rpartition(b"\n")[0]
    rows, damaged = [], []
    for number, line in enumerate(whole.split(b"\n"), 1):
        try:
            if line:
                row = parse_json(line)
                kind(row, "")
                rows.append(row)
        except (PlainFileError, KindError) as error:
            damaged.append(f"line {number}: {error}")
    return rows, damaged


def _mapping(path: Path, read: Callable[[Path], Any], kind: Kind) -> dict[str, Any] | None:
    if not path.exists():
        return None
    with _named(path):
        found: Any = read(path)
        kind(found, "")
        return {str(key): value for key, value in found.items()}


def _text(path: Path) -> str | None:
    if not path.exists():
        return None
    with _named(path), path.open("rb") as file:
        return file.read(MOST_TEXT).decode()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever is wrong within becomes one line with the file's name."""
    try:
        yield
    except OSError as error:
        raise DamagedFileError(f"{path} cannot be read ({error.strerror or error})") from error
    except (KeyError, ValueError) as error:  # of text, of plain data, of kinds
        raise DamagedFileError(f"{path} is damaged: {' '.join(str(error).split())}") from error
