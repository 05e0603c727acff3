"""Many short episodes in one pool: memory, descriptors, threads and shared memory stay flat."""

from __future__ import annotations

import os
import time
from typing import Any

import psutil
import torch

from envs import make_task
from runners.episodes.loop import evaluate

from .records import Row

A_TRIAL = 50  # episodes
WARM_UP, MOST_MB = 1, 30.0  # trials before anything is compared; growth that is noise


class _Still:
    """A policy that does nothing."""

    n_obs_steps, n_action_steps = 2, 8

    def act(self, obs: Any, noise: Any) -> torch.Tensor:
        return torch.zeros(len(obs), 8, 2)


def measured() -> dict[str, float]:
    """What this process holds."""
    process = psutil.Process()
    return {
        "MB": process.memory_info().rss / 2**20,
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
        "in /dev/shm": len(os.listdir("/dev/shm")),
        "children": len(process.children(recursive=True)),
    }


def run(first: int, last: int, until: float = float("inf")) -> list[Row]:
    """Each seed is a pool with `A_TRIAL` episodes; the first ones warm up."""
    task, row, seed = make_task("pusht", max_steps=8), Row("episodes of PushT", first, last), first
    before: dict[str, float] = {}
    while seed < last and time.monotonic() < until:
        seeds = range(seed * A_TRIAL, (seed + 1) * A_TRIAL)
        n = sum(e.status == "ok" for e in evaluate(_Still(), task, seeds, 2, 0, policy_batch=2))
        now = measured()
        if seed == first + WARM_UP - 1:
            before = now
        grown = {name: value - before.get(name, value) for name, value in now.items()}
        wrong = [
            f"{k} grew by {v:g}" for k, v in grown.items() if v > (MOST_MB if k == "MB" else 0)
        ]
        wrong += [] if n == A_TRIAL else [f"{n} of {A_TRIAL} episodes ended"]
        quantities = {f"more {name}": value for name, value in grown.items()}
        row.count(seed, "finding" if wrong else "flat", "; ".join(wrong), **quantities)
        seed += 1
    row.last = seed
    return [row]
