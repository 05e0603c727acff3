"""python -m benchmarks.observations: images of a chunk, by shared memory and through the pipe.

A world that does nothing but show prepared images, asked for chunks in two pools in turn: one has
them by memory that it shares with its worker (envs/frames.py), in the other the worker pickles them
into its pipe.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gymnasium as gym
import numpy as np

from benchmarks.rounds import beside, interleave
from benchmarks.writing import check, keep, machine, markdown
from envs.frames import Frames
from envs.pool import EnvPool
from envs.task import EpisodeScore, Task
from runners.episodes.two_clocks import Clocks
from skipstep.observations import ObservationSpec

N_IMAGES = 16  # that are shown in turn


@dataclass
class Album(Task):
    """Images of one size and no end of steps."""

    size: int = 96
    name: str = "album"
    obs_dim: int = 2
    action_dim: int = 2
    max_steps: int = 10**9
    control_hz: float = 10.0
    memory_mb: int = 100

    @property
    def obs_spec(self) -> ObservationSpec:
        return ObservationSpec.of({"state": 2, "image.top": (3, self.size, self.size)})

    def make_env(self, render: bool = False) -> Any:
        return Shown(self)

    def score(self, rewards: Any, info: Mapping[str, Any]) -> EpisodeScore:
        return EpisodeScore(False, 0.0)


class Shown(gym.Env[Any, Any]):
    """Random images, made before the first is asked for."""

    def __init__(self, task: Album) -> None:
        shape = (N_IMAGES, *task.obs_spec["image.top"].shape)
        self.images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        self.n_steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.n_steps += 1
        return self._seen(), 0.0, False, False, {}

    def _seen(self) -> dict[str, Any]:
        return {"state": np.zeros(2), "image.top": self.images[self.n_steps % N_IMAGES]}


class Piped(EnvPool):
    """Everything goes through the pipe."""

    def _frames(self) -> Frames | None:
        return None


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(prog="python -m benchmarks.observations", description=__doc__)
    words.add_argument("--sizes", type=int, nargs="+", default=[96, 384], help="pixels a side")
    words.add_argument("--steps", type=int, default=8, help="of a chunk, an image each")
    words.add_argument("--rounds", type=int, default=300, help="chunks of each pool that count")
    words.add_argument("--warmup", type=int, default=20, help="chunks that do not")
    words.add_argument("--out", type=Path, default=Path("multirun/observations"), help="folder")
    return words


def on_core_ns(pid: int) -> int:
    """What a process has computed so far (proc_pid_schedstat(5), the first number)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def measured(size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds from asking a worker for a chunk to having its images, by both ways.

    CPU time is that of this process and of the workers.
    """
    with ExitStack() as stack:
        ways = {"pipe": Piped, "shared memory": EnvPool}
        pools = {name: stack.enter_context(kind(Album(size), 1)) for name, kind in ways.items()}
        for pool in pools.values():
            pool.reset(0, 0)
            pool.wait()
        actions = np.zeros((options.steps, 2))

        def chunk(pool: EnvPool) -> None:
            pool.step(0, actions)
            (event,) = pool.wait()
            assert event.obs["image.top"].shape == (options.steps, 3, size, size), event.error

        calls = {name: lambda pool=pool: chunk(pool) for name, pool in pools.items()}
        pids = [pid for pool in pools.values() for pid in pool.pids()]
        clocks = Clocks(cpu_ns=lambda: time.process_time_ns() + sum(map(on_core_ns, pids)))
        times = interleave(calls, options.rounds, options.warmup, clocks=clocks)
    found = {name: beside(times["pipe"], times[name], 1) for name in times}
    return {"megabytes": options.steps * 3 * size * size / 1e6, **found}


HEADER = (
    *("images of a chunk", "MB", "pipe, ms", "shared memory, ms", "times as fast"),
    *("pipe, CPU ms", "shared memory, CPU ms", "times as cheap"),
)


def render(found: Mapping[str, Mapping[str, Any]], steps: int) -> str:
    """Medians, and their ratios with intervals over rounds."""
    rows = []
    for size, of in found.items():
        row = [f"{steps} of 3 x {size} x {size}", f"{of['megabytes']:.2f}"]
        for time_of, ratio in (("p50_ms", "ratio"), ("cpu_p50_ms", "cpu_ratio")):
            row += [f"{of[way][time_of]:.2f}" for way in ("pipe", "shared memory")]
            shared = of["shared memory"]
            low, high = shared[f"{ratio}_interval"]
            row.append(f"{shared[ratio]:.2f} [{low:.2f}, {high:.2f}]")
        rows.append(row)
    return markdown(HEADER, rows)


def main(argv: Sequence[str]) -> int:
    """0: measured; 2: a wrong option."""
    options = parser().parse_args(argv)
    try:
        check(options, sizes=1, steps=1, rounds=2, warmup=0)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = {str(size): measured(size, options) for size in options.sizes}
    keep(options.out, "observations", {**found, "machine": machine()}, render(found, options.steps))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
