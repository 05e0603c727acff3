"""How often Meta-World's scripts solve its 50 worlds, without and with the noise of runner=collect.

    python -m benchmarks.metaworld_experts --play   # the episodes that are missing, about an hour
    python -m benchmarks.metaworld_experts          # the table of those that are kept

Episodes are those of `runner=collect task=metaworld task.env=NAME runner.noise=0` (and 0.3), step
for step. They are kept in results/metaworld_experts.csv, each as it ends.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from envs import Task, make_task
from envs.metaworld.names import INSTRUCTIONS
from runners.formatting import NOTHING

EPISODES = Path(__file__).resolve().parent.parent / "results" / "metaworld_experts.csv"
NOISES = (0.0, 0.3)
HEADER = "| world | success | steps | with noise: success | steps |\n|---|---|---|---|---|"


class Played(NamedTuple):
    """An episode: `noise` is the largest deviation, of which each seed draws its own share."""

    env: str
    noise: float
    seed: int
    success: bool
    n_steps: int


def read(path: Path) -> list[Played]:
    """The episodes that are kept; of none there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            Played(
                r["env"], float(r["noise"]), int(r["seed"]), r["success"] == "1", int(r["n_steps"])
            )
            for r in csv.DictReader(file)
        ]


def played(task: Task, noise: float, seeds: list[int]) -> Iterator[Played]:
    """The expert's episodes, as runner=collect plays them."""
    from runners.collect.run import disturbance  # torch, which the table needs not
    from runners.collect.sources import Scripted
    from runners.episodes.loop import evaluate

    assert task.expert is not None
    acting, disturb = Scripted(task.expert), disturbance(0, noise)
    for episode in evaluate(acting, task, seeds, 1, 0, policy_batch=1, disturb=disturb):
        if episode.success is None:
            raise RuntimeError(f"{task.world}, seed {episode.seed}: {episode.error}")
        yield Played(task.world, noise, episode.seed, episode.success, episode.n_steps)


def play(path: Path, n_seeds: int, envs: list[str]) -> None:
    """Add the episodes that are missing."""
    there = {episode[:3] for episode in read(path)}
    path.parent.mkdir(parents=True, exist_ok=True)
    for env in envs:
        for noise in NOISES:
            seeds = [s for s in range(n_seeds) if (env, noise, s) not in there]
            if not seeds:
                continue
            for episode in played(make_task("metaworld", env=env), noise, seeds):
                new = not path.exists()
                with path.open("a", newline="") as file:
                    writer = csv.writer(file, lineterminator="\n")
                    if new:
                        writer.writerow(Played._fields)
                    writer.writerow([*episode[:3], int(episode.success), episode.n_steps])


def table(episodes: list[Played]) -> str:
    """A line per world; steps are the mean of the successes."""
    groups: dict[tuple[str, float], list[Played]] = defaultdict(list)
    for episode in episodes:
        groups[episode.env, episode.noise].append(episode)
    lines = [HEADER]
    for env in INSTRUCTIONS:
        cells = [cell for noise in NOISES for cell in _cells(groups[env, noise])]
        lines.append(f"| {' | '.join([env, *cells])} |")
    totals = [[e for e in episodes if e.noise == noise] for noise in NOISES]
    lines.append(f"| all | {' | '.join(cell for total in totals for cell in _cells(total))} |")
    return "\n".join(lines)


def _cells(episodes: list[Played]) -> tuple[str, str]:
    solved = [e.n_steps for e in episodes if e.success]
    mean = f"{np.mean(solved):.0f}" if solved else NOTHING
    return f"{len(solved)} of {len(episodes)}" if episodes else NOTHING, mean


def main() -> None:
    """Print the table, after playing what is missing where that was asked for."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--play", action="store_true", help="play the episodes that are missing")
    words.add_argument("--seeds", type=int, default=10, help="0 to this, not included")
    words.add_argument("--envs", nargs="+", default=list(INSTRUCTIONS), choices=list(INSTRUCTIONS))
    options = words.parse_args()
    if options.play:
        play(EPISODES, options.seeds, options.envs)
    print(table(read(EPISODES)))


if __name__ == "__main__":
    main()
