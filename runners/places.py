"""Where this project is, and whether a run can write where it is to."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .errors import UserError

PROJECT = Path(__file__).resolve().parents[1]
RESULTS, PUBLISHED = PROJECT / "results", "published"


def is_checkout() -> bool:
    """Whether this is a clone of the repository, not an installed package."""
    return (PROJECT / "pyproject.toml").is_file()


def check_writable(folder: Path) -> None:
    """Refuse a run folder that cannot be made, without making it."""
    existing = folder
    try:
        while not existing.exists():
            existing = existing.parent
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror} ({existing})") from error
