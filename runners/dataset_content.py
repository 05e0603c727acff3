"""Datasets read once for as long as their files stay, with a hash of what is in them."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from policies import Demonstrations, read_dataset
from policies.dataset_files import detect_kind

from .train_settings import TaskDefaults


def read_content(
    files: list[str], kind: str, keys: tuple[str, ...], defaults: TaskDefaults
) -> tuple[Demonstrations, str]:
    """The demonstrations as they are in the files, and the hash of the files.

    Args:
        files: of one kind or several.
        kind: of all of them, or auto: by their names.
        keys: fields that make an observation; none: the task's.
        defaults: of the task.

    Raises:
        DatasetError: in one line with the file, the episode and the field.
    """
    kinds = {detect_kind(Path(f)) if kind == "auto" else kind for f in files}
    if not keys and kinds == {"robomimic"}:
        keys = defaults.robomimic_keys
    stamps = tuple((p, p.stat().st_mtime_ns) for f in files for p in _files(Path(f)))
    return _read(tuple(files), kind, keys, stamps)


@lru_cache(maxsize=2)
def _read(
    files: tuple[str, ...], kind: str, keys: tuple[str, ...], stamps: tuple[tuple[Path, int], ...]
) -> tuple[Demonstrations, str]:
    data = read_dataset(files, kind, keys or None)
    content = hashlib.sha256()
    for path, _ in stamps:
        content.update(hashlib.sha256(path.read_bytes()).digest())
    return data, content.hexdigest()


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
