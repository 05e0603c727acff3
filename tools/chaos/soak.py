"""Many short episodes and requests: memory, descriptors, threads and shared memory stay flat."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from envs import make_task
from runners.episodes.loop import evaluate
from runners.serve.client import Client

from . import runs
from .records import Row
from .server import SHAPE, serve

A_TRIAL = 50  # episodes
REQUESTS, CLIENTS = 1000, 10  # of a trial, each client after the one before
WARM_UP, MOST_MB = 1, 30.0  # trials before anything is compared; growth that is noise
SETTLED_S = 5.0  # until which what is being closed, here or by others, may still be there
Held = dict[str, float]
Trials = Generator[tuple[int, str, psutil.Process], None, None]


class _Still:
    """A policy that does nothing."""

    n_obs_steps, n_action_steps = 2, 8

    def __init__(self, action_dim: int) -> None:
        self.action_dim = action_dim

    def act(self, obs: Any, noise: Any) -> torch.Tensor:
        return torch.zeros(len(noise), self.n_action_steps, self.action_dim)


def measured(process: psutil.Process) -> Held:
    """What a process holds."""
    return {
        "MB": process.memory_info().rss / 2**20,
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
        "in /dev/shm": len(os.listdir("/dev/shm")),
        "children": len(process.children(recursive=True)),
    }


def grown(process: psutil.Process, before: Held) -> Held:
    """What it holds more than before, once that has settled."""
    until = time.monotonic() + SETTLED_S
    while True:
        more = {what: value - before[what] for what, value in measured(process).items()}
        if not too_much(more) or time.monotonic() > until:
            return more
        time.sleep(0.1)


def too_much(more: Held) -> list[str]:
    """In words."""
    allowed = {"MB": MOST_MB}
    return [f"{what} grew by {n:g}" for what, n in more.items() if n > allowed.get(what, 0)]


def episodes(name: str, first: int, last: int) -> Trials:
    """Each seed is a pool of two workers with `A_TRIAL` episodes, in this process."""
    task = make_task(name, max_steps=8)
    still = _Still(task.action_dim)
    for seed in range(first, last):
        seeds = range(seed * A_TRIAL, (seed + 1) * A_TRIAL)
        n = sum(e.status == "ok" for e in evaluate(still, task, seeds, 2, 0, policy_batch=2))
        wrong = "" if n == A_TRIAL else f"{n} of {A_TRIAL} episodes ended"
        yield seed, wrong, psutil.Process()


def answered(url: str, seed: int) -> int:
    """How many of `REQUESTS` requests, of `CLIENTS` one after the other, get numbers."""
    state = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
    n = 0
    for _ in range(CLIENTS):
        with Client(url) as client:
            for _ in range(REQUESTS // CLIENTS):
                n += bool(np.isfinite(client.infer({"state": state})["actions"]).all())
    return n


def requests(first: int, last: int) -> Trials:
    """Each seed is `REQUESTS` requests to one server."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        process, url = serve(Path(folder), runs.random_policy(Path(folder, "policy")))
        try:
            for seed in range(first, last):
                n = answered(url, seed)
                wrong = "" if n == REQUESTS else f"{n} of {REQUESTS} requests were answered"
                yield seed, wrong, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(60)


KINDS: dict[str, Callable[[int, int], Trials]] = {
    "episodes of PushT": partial(episodes, "pusht"),
    "episodes of Kitchen": partial(episodes, "kitchen"),
    "episodes of Lift": partial(episodes, "lift"),
    "episodes of Can": partial(episodes, "can"),
    "episodes of Square": partial(episodes, "square"),
    "requests of a server": requests,
}


def flat(name: str, first: int, last: int, until: float) -> Row:
    """The trials of a kind; one that holds more than the first ones did is a finding."""
    row, before = Row(name, first, last), Held()
    with closing(KINDS[name](first, last)) as trials:
        for seed, wrong, process in trials:
            if seed == first + WARM_UP - 1:
                before = measured(process)
            more = grown(process, before) if before else {}
            said = [*too_much(more), *([wrong] if wrong else [])]
            most = {f"more {what}": value for what, value in more.items()}
            row.count(seed, "finding" if said else "flat", "; ".join(said), **most)
            row.last = seed + 1
            if time.monotonic() >= until:
                break
    return row


def run(first: int, last: int, until: float = float("inf"), kinds: Sequence[str] = ()) -> list[Row]:
    """Each seed is a trial of each kind; the first ones warm up."""
    rows = [flat(name, first, last, until) for name in kinds or KINDS]
    return [row for row in rows if row.trials]
