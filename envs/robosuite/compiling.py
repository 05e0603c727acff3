"""robosuite's functions that numba compiles: half a minute of CPU time, once a machine.

numba keeps what it compiled on disk, but a pool's first workers start at once, and each would
compile all of it beside the others. Here the first one does, and the others wait and read it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from types import ModuleType


def compile_once(robosuite: ModuleType, use: Callable[[], None]) -> None:
    """Call `use`, which makes numba compile, unless some process has done so on this machine.

    Where no note of it can be kept, nothing happens, and each worker compiles for itself.

    Args:
        robosuite: the package.
        use: makes a world and acts in it; what it raises is raised, and nothing is noted.
    """
    with contextlib.suppress(OSError):
        note = _folder() / f"compiled-{_key(robosuite)}"
        if note.exists():
            return
        with _alone(note.with_suffix(".lock")):
            if not note.exists():
                use()
                note.touch()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time; a killed one lets the next in."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _folder() -> Path:
    """Of the cache; made if need be."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "skipstep"
    if not folder.exists():
        base.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _key(robosuite: ModuleType) -> str:
    """What numba's files belong to: this installation, these versions, and where they are kept."""
    source = Path(robosuite.__file__ or "")
    parts = (str(source), source.stat().st_mtime_ns, metadata.version("numba"), sys.version)
    kept = os.environ.get("NUMBA_CACHE_DIR", "")
    return sha256(repr((*parts, kept)).encode()).hexdigest()[:16]
