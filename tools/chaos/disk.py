"""A disk that is full at every stage of a run; then there is room, and the same command goes on.

What must hold: one line that says so, exit code 1 (2 where not even the folder can be made), and
after space is made the run ends as one that was left alone. The disk is a tmpfs of a few pages,
which needs root.
"""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from pathlib import Path

from . import runs
from .records import Row

MOST_KB = 160  # of a disk on which the run does not fit


def mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


def trial(calm: runs.Calm, folder: Path, seed: int) -> tuple[str, str]:
    """(at which stage it was full, what is wrong)."""
    folder.mkdir()
    size = 4 * random.Random(f"disk {seed}").randrange(1, MOST_KB // 4)
    mount(folder, f"size={size}k")
    try:
        code = runs.ended(runs.start(calm.command, folder))
        n, words = len(runs.episodes(folder)), runs.said(folder)
        if code == 0:
            return "nowhere", calm.differs(folder)
        if code not in (1, 2) or "Traceback" in words or "No space left" not in words:
            return "", f"{size} kB: exit code {code}: {words[-400:]}"
        mount(folder, "remount,size=100m")
        code = runs.ended(runs.start(calm.command, folder))
        if code:
            return "", f"{size} kB: with room it ends with {code}: {runs.said(folder)[-400:]}"
        stage = "before the episodes" if n == 0 else "among the episodes"
        return stage, calm.differs(folder) and f"{size} kB: {calm.differs(folder)}"
    except AssertionError as error:
        return "", f"{size} kB: {error}"
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def run(first: int, last: int, until: float = float("inf")) -> list[Row]:
    """Each seed is a size of the disk."""
    row, seed = Row("full disk", first, last), first
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        calm = runs.Calm(Path(name))
        while seed < last and time.monotonic() < until:
            stage, wrong = trial(calm, Path(name, str(seed)), seed)
            row.count(seed, "finding" if wrong else f"full {stage}", wrong)
            seed += 1
    row.last = seed
    return [row]
