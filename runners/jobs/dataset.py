"""Datasets read once for as long as their files stay, and compared with the task they are for."""

from __future__ import annotations

import hashlib
import json
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.errors import CompactHydraException

from envs import Task
from policies import DatasetError, Demonstrations, read_dataset
from policies.data.dataset_files import detect_kind
from policies.data.dataset_info import NOT_ASKED
from policies.data.pictures import CACHE_MB
from skipstep.observations import STATE, ObservationSpec

log = logging.getLogger(__name__)


class BrokenImageError(CompactHydraException):
    """An image that is needed cannot be decoded: a failure in one line, exit code 1."""


def read_content(
    files: list[str],
    kind: str,
    keys: tuple[str, ...],
    task: Task,
    actions: bool = True,
    cache_mb: float = CACHE_MB,
) -> tuple[Demonstrations, str]:
    """The demonstrations, their observations in the task's order, and the hash of the files.

    Args:
        files: of one kind or several.
        kind: of all of them, or auto: by their names.
        keys: fields that make an observation; none: the task's.
        task: what they are for.
        actions: they are used, not only the observations.
        cache_mb: of images that are kept, in megabytes.

    Raises:
        DatasetError: in one line with the file, the episode and the field.
    """
    kinds = {detect_kind(Path(f)) if kind == "auto" else kind for f in files}
    spec = task.obs_spec
    if not keys and kinds == {"robomimic"}:
        keys = tuple(task.obs_parts) or ("obs",)
    stamps = tuple((p, p.stat().st_mtime_ns) for f in files for p in _files(Path(f)))
    unnamed = (("obs", spec[STATE].shape[0]),) if STATE in spec else ()
    parts = tuple(task.obs_parts.items()) or unnamed
    shapes = tuple((name, array.shape) for name, array in spec.items())
    data, content = _read(
        tuple(files), kind, keys, parts, (shapes, spec.control_hz), cache_mb, stamps
    )
    for path, said in data.environments:
        if said is NOT_ASKED:
            continue
        try:
            doubts = task.check_recorded(said, path, actions)
        except ValueError as error:
            raise DatasetError(str(error)) from error
        for doubt in doubts:
            log.warning("%s", doubt)
        if not spec.single:  # a task of numbers alone has said what it thinks of it
            _check_rate(said, path, task)
    for name, start, end in zip(data.names, data.starts, data.ends, strict=True):
        reason = task.contradiction(data.state[start:end])
        if reason:
            raise DatasetError(f"{name}: {reason}")
    return data, content


def _check_rate(said: Any, path: str, task: Task) -> None:
    """Compare the rate that robomimic's env_args say, if they do, with the task's."""
    args = json.loads(said) if isinstance(said, str) else said
    kwargs = args.get("env_kwargs") if isinstance(args, dict) else None
    hz = kwargs.get("control_freq") if isinstance(kwargs, dict) else None
    if hz is not None and hz != task.control_hz:
        raise DatasetError(
            f"{path}: env_args.env_kwargs.control_freq must be {task.control_hz:g} as the task's "
            f"control rate, got {hz}"
        )


@lru_cache(maxsize=2)
def _read(
    files: tuple[str, ...],
    kind: str,
    keys: tuple[str, ...],
    parts: tuple[tuple[str, int], ...],
    spec: tuple[tuple[tuple[str, tuple[int, ...]], ...], float | None],
    cache_mb: float,
    stamps: tuple[tuple[Path, int], ...],
) -> tuple[Demonstrations, str]:
    wanted = ObservationSpec.of(dict(spec[0]), spec[1])
    data = read_dataset(files, kind, keys or None, dict(parts), wanted, cache_mb)
    content = hashlib.sha256()
    for path, _ in stamps:
        with path.open("rb") as file:
            content.update(hashlib.file_digest(file, "sha256").digest())
    if data.orders:  # what was made of it before it was sorted is something else
        content.update(repr(data.orders).encode())
    return data, content.hexdigest()


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
