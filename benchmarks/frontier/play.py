"""Play the study's arms one after another, and keep each one's records as it ends.

    python -m benchmarks.frontier.play kitchen --episodes 100
    python -m benchmarks.frontier.play kitchen --episodes 1000 --arms unaccelerated

The same command goes on where it was cut off: a finished run is taken as done, and one with fewer
episodes is extended.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from .arms import ARMS, Arm
from .page import KEPT

STUDY = Path("multirun/frontier")
FILES = ("config.yaml", "episodes.jsonl", "result.json", "plan.txt", "time.json")


def command(task: str, arm: Arm, n_episodes: int) -> list[str]:
    """What plays an arm."""
    words = [
        "run.py",
        "experiment=frontier",
        f"task={task}",
        f"n_episodes={n_episodes}",
        "logger=none",
    ]
    return [*words, *arm.overrides]


def keep(folder: Path) -> None:
    """Copy a run's records to where they are committed, whole files only."""
    target = KEPT / folder.name
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (folder / name).exists():
            temporary = target / f".{name}.tmp"
            shutil.copyfile(folder / name, temporary)
            temporary.replace(target / name)


def finished() -> set[Path]:
    """Run folders of the study that have a result."""
    found = {path.parent for path in STUDY.glob("*/result.json")}
    return {folder for folder in found if not folder.name.startswith("calibrate")}


def play(task: str, arm: Arm, n_episodes: int) -> int:
    """Run one arm to its end; its exit code."""
    print(f"== {task}: {arm.name}, {n_episodes} episodes", flush=True)
    before = {path: (path / "result.json").stat().st_mtime_ns for path in finished()}
    code = subprocess.run([sys.executable, *command(task, arm, n_episodes)], check=False).returncode
    for path in finished():
        if before.get(path) != (path / "result.json").stat().st_mtime_ns:
            keep(path)
    return code


def main() -> int:
    """Play what is asked for; 1 where an arm failed."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("task")
    words.add_argument("--episodes", type=int, default=100)
    words.add_argument("--arms", nargs="*", help="names of arms; all of them by default")
    options = words.parse_args()
    known = {arm.name: arm for arm in ARMS}
    if unknown := [name for name in options.arms or () if name not in known]:
        words.error(f"--arms must be of {', '.join(known)}, got {unknown[0]!r}")
    codes = [play(options.task, known[n], options.episodes) for n in options.arms or known]
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
