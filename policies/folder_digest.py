"""The digest of a policy folder: what is in it is what was written into it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from skipstep.plain_files import read_yaml

DIGEST = "digest"
LAST, LAST_OF_TASK = "task", "robot_noise_ratio"


def folder_digest(settings: Mapping[str, Any], weights: Path) -> str:
    """Hash of all settings but the digest itself, and of the file of weights.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     weights = Path(folder, "weights.safetensors")
        ...     _ = weights.write_bytes(b"weights")
        ...     folder_digest({"a": 1}, weights) == folder_digest({"a": 1, "digest": ""}, weights)
        True
    """
    kept = {key: value for key, value in settings.items() if key != DIGEST}
    found = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    with weights.open("rb") as file:
        found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def check_folder_digest(settings: Mapping[str, Any], weights: Path) -> None:
    """Refuse a folder that was changed; one without a digest, of an earlier version, passes.

    If it is whole: every version has ended with the task, so a file without that was cut off.

    Raises:
        ValueError: one line, with the way out.
    """
    said, task = settings.get(DIGEST), settings.get(LAST)
    if DIGEST not in settings and not (isinstance(task, Mapping) and LAST_OF_TASK in task):
        raise ValueError(
            f"{LAST}.{LAST_OF_TASK} is missing, with which it ends: it was cut off, and what is "
            f"missing would be guessed; of a file that is whole, write {LAST}.{LAST_OF_TASK} "
            "(null: none)"
        )
    if DIGEST in settings and said != folder_digest(settings, weights):
        raise ValueError(
            f"digest does not match the settings and {weights.name}: it is damaged, or was changed "
            f"by hand; without the line `{DIGEST}:` it is taken as it is"
        )


def save_settings(settings: Mapping[str, Any], path: Path, weights: Path) -> None:
    """Write the settings after their digest, beside a file of weights that is there already.

    The digest comes first, so that a file that is cut off anywhere still has it.
    """
    OmegaConf.save(OmegaConf.create(dict(settings)), path)
    digest = folder_digest(read_yaml(path), weights)  # of what a reader sees
    OmegaConf.save(OmegaConf.create({DIGEST: digest, **settings}), path)
