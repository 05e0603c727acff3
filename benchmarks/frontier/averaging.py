"""Does a mean of several samples act better than one? results/studies/frontier/averaging.json.

    python -m benchmarks.frontier.averaging kitchen --samples 4 --episodes 100

If a hundred steps lose to five because their actions are too random, the mean of several samples
should win too. A query's action chunk is the mean of K samples, whose noises come from the query's
own generator. Wins and losses are against the plain policy's committed episodes on the same seeds.
The same command goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import torch
from torch import Tensor
from tqdm import tqdm

from accel import AcceleratedPolicy
from runners.acceleration.quantization import accelerate, acceleration_of
from runners.evaluate import evaluate
from runners.metrics import paired, wilson
from runners.store.folder import dump
from runners.store.reading import is_baseline
from runners.studies.arms import timing_label

from . import measured, page
from .latency import job_of

NAME = "averaging.json"


class MeanOfSamples:
    """Acts by the mean of K samples; one sample acts like the policy, under other noise."""

    def __init__(self, policy: AcceleratedPolicy, n_samples: int) -> None:
        self.policy, self.n_samples = policy, n_samples
        self.n_obs_steps, self.n_action_steps = policy.n_obs_steps, policy.n_action_steps

    def act(self, obs: Tensor, noise: Sequence[torch.Generator]) -> Tensor:
        """(B, n_obs_steps, obs_dim) -> (B, n_action_steps, action_dim); a generator per row."""
        rows = obs.repeat_interleave(self.n_samples, 0)
        drawn = [torch.randint(2**63 - 1, (self.n_samples,), generator=g) for g in noise]
        own = [torch.Generator().manual_seed(seed) for row in drawn for seed in row.tolist()]
        actions = self.policy.act(rows, own)
        return actions.view(len(obs), self.n_samples, *actions.shape[1:]).mean(1)


def plain_success(task: str) -> dict[int, bool]:
    """{seed: success} of the plain policy's committed episodes."""
    runs = [kept.run() for kept in page.kept_runs() if page.task_of(kept) == task]
    return next((run.success for run in runs if is_baseline(run)), {})


def summary(success: Mapping[int, bool], plain: Mapping[int, bool]) -> dict[str, Any]:
    """What is written down of one number of samples."""
    n, successes, versus = len(success), sum(success.values()), paired(success, plain)
    return {
        "episodes": n,
        "successes": successes,
        "interval": wilson(successes, n),
        "against the plain policy": asdict(versus) if versus else None,
        "success": {str(seed): success[seed] for seed in sorted(success)},
    }


def main() -> int:
    """Play what is missing, and keep each episode as it ends; 1 where one failed."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("task")
    words.add_argument("--samples", type=int, default=4)
    words.add_argument("--episodes", type=int, default=100)
    words.add_argument("--sampler", nargs="*", default=[], help="sampler=ddpm sampler.steps=5 ...")
    options = words.parse_args()
    job = job_of(options.task, (f"n_episodes={options.episodes}", *options.sampler))
    label = f"{timing_label(job.config)}, mean of {options.samples}"
    kept, plain = measured.measured(NAME).get(options.task, {}), plain_success(options.task)
    success = {int(s): ok for s, ok in kept.get(label, {}).get("success", {}).items()}
    missing = [seed for seed in job.seeds if seed not in success]
    torch.set_num_threads(1)
    with accelerate(job, acceleration_of(job)) as fast:
        mean, noise_seed = MeanOfSamples(fast, options.samples), job.settings.noise_seed
        played = evaluate(mean, job.task, missing, job.n_envs, noise_seed) if missing else ()
        for episode in tqdm(played, total=len(missing), unit="episode", disable=None):
            if episode.status == "ok":
                success[episode.seed] = bool(episode.success)
                measured.keep_measured(NAME, options.task, {**kept, label: summary(success, plain)})
    found = summary(success, plain)
    print(label, dump({k: v for k, v in found.items() if k != "success"}))
    return int(not success.keys() >= set(job.seeds))


if __name__ == "__main__":
    sys.exit(main())
