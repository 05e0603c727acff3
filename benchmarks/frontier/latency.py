"""Time a task's arms in turn, in one process: results/studies/frontier/latency.json.

    python -m benchmarks.frontier.latency kitchen --rounds 40

A round is one query of every arm that the study has a run of, at batch 1 on one thread, in a new
random order, beside the policy as the reference implementation runs it (stock modules under
diffusers' scheduler). Wall and CPU time are both kept; where they disagree by more than a fifth CPU
time counts.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import numpy as np
import torch

from benchmarks.rounds import interleave
from benchmarks.stock import act, stock_policy
from runners import cli
from runners.acceleration.quantization import accelerate, acceleration_of
from runners.episodes.latency import WithinEpisode
from runners.episodes.loop import query_noise
from runners.episodes.two_clocks import compare
from runners.errors import UserError
from runners.jobs.job import Job
from runners.machine import cpu, load
from runners.studies.arms import timing_label

from .arms import ARMS
from .measured import keep_measured
from .page import kept_runs, task_of

REFERENCE = "as the reference implementation runs it"
Query = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


def job_of(task: str, overrides: tuple[str, ...]) -> Job:
    """The checked job of an arm."""
    words = ["experiment=frontier", f"task={task}", "logger=none", *overrides]
    job: Job = cli.job_of(words)
    return job


def jobs_of(task: str) -> Iterator[Job]:
    """The checked jobs of all arms that the task's policy can run (bac on a UNet it cannot)."""
    for arm in ARMS:
        with suppress(UserError):
            yield job_of(task, arm.overrides)


def arms_of(task: str, stack: ExitStack) -> Iterator[tuple[str, Query]]:
    """(label, query) of the reference implementation and of every arm that was played."""
    played = {timing_label(kept.run().config) for kept in kept_runs() if task_of(kept) == task}
    yield REFERENCE, partial(act, stock_policy(job_of(task, ()).policy))
    for job in jobs_of(task):
        if timing_label(job.config) not in played:
            continue
        played.discard(timing_label(job.config))
        fast = stack.enter_context(accelerate(job, acceleration_of(job)))
        yield timing_label(job.config), query_of(fast if job.warm is None else WithinEpisode(fast))
    if played:
        raise SystemExit(f"played, and not to be timed: {', '.join(sorted(played))}")


def query_of(policy: Any) -> Query:
    """One query of one row."""
    return lambda obs, noise: policy.act(obs, [noise])


def observations(task: str) -> np.ndarray:
    """What the policy was asked in the study's episodes, (n, n_obs_steps, obs_dim)."""
    from .play import RUNS

    path = next(iter(sorted(RUNS.glob(f"{task}_none_none_*/observations.npz"))))
    with np.load(path) as file:
        return np.concatenate([file[name] for name in sorted(file.files)])


def measure(task: str, rounds: int, warmup: int) -> dict[str, Any]:
    """{label: times as fast and milliseconds} of every arm."""
    torch.set_num_threads(1)
    asked, before, now = observations(task), load(), dict[str, Any]()

    def ask(i: int) -> None:
        now["obs"] = torch.from_numpy(asked[i % len(asked)][None]).float()
        now["noise"] = query_noise(0, 0, i + warmup)

    with ExitStack() as stack:
        arms = dict(arms_of(task, stack))
        calls = {
            label: lambda query=query: query(now["obs"], now["noise"])
            for label, query in arms.items()
        }
        times = interleave(calls, rounds, warmup, before=ask)
    machine = {"cpu": cpu(), "threads": 1, "load": [before, load()], "rounds": rounds}
    base, found = times[REFERENCE], dict[str, Any](machine=machine)
    for label, samples in times.items():
        found[label] = {
            "p50_ms": float(np.median(samples.wall_ms)),
            "cpu_p50_ms": float(np.median(samples.cpu_ms)),
            **compare(base, samples, 1, "cpu"),
        }
    return found


def main() -> int:
    """Measure one task and keep what was measured of the others."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("task")
    words.add_argument("--rounds", type=int, default=40)
    words.add_argument("--warmup", type=int, default=3)
    words.add_argument("--into", default="latency.json", help="a file of its own, for another CPU")
    options = words.parse_args()
    found = measure(options.task, options.rounds, options.warmup)
    keep_measured(options.into, options.task, found)
    for label, row in found.items():
        if label != "machine":
            print(f"{label:45} {row['p50_ms']:8.2f} ms  {row['times_as_fast']:6.1f} times as fast")
    return 0


if __name__ == "__main__":
    sys.exit(main())
