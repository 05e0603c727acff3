"""Play the study's arms one after another, and keep each one's records as it ends.

    python -m benchmarks.frontier.play kitchen --episodes 100
    python -m benchmarks.frontier.play kitchen --episodes 1000 --arms unaccelerated

The same command goes on where it was cut off: a finished run is taken as done, and one with fewer
episodes is extended. Records are kept in results/, as by python -m tools.keep_runs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from runners.store.reading import read_run
from tools.keep_runs import RefusedError, keep

from .arms import ARMS, Arm
from .measured import RESULTS, STUDY

RUNS = Path("multirun", STUDY)


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


def finished() -> set[Path]:
    """Run folders of the study that have a result."""
    found = {path.parent for path in RUNS.glob("*/result.json")}
    return {folder for folder in found if not folder.name.startswith("calibrate")}


def play(task: str, arm: Arm, n_episodes: int) -> int:
    """Run one arm to its end; its exit code."""
    print(f"== {task}: {arm.name}, {n_episodes} episodes", flush=True)
    before = {path: (path / "result.json").stat().st_mtime_ns for path in finished()}
    code = subprocess.run([sys.executable, *command(task, arm, n_episodes)], check=False).returncode
    for path in finished():
        if before.get(path) != (path / "result.json").stat().st_mtime_ns:
            code = keep_records(path) or code
    return code


def keep_records(folder: Path) -> int:
    """Put a run's records into results/; 1 where another run is kept under its name."""
    try:
        keep(read_run(folder), STUDY, RESULTS)
    except RefusedError as error:
        print(f"refused: {folder.name}: {error}", file=sys.stderr)
        return 1
    return 0


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
