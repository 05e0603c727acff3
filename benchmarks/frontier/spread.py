"""How much a sampler's actions differ from noise to noise: results/studies/frontier/spread.json.

    python -m benchmarks.frontier.spread kitchen

For each of the shipped calibration's observations, actions of several noises; their standard
deviation around the observation's mean, and how far that mean is from the unaccelerated policy's,
both root mean square in normalised action units. A sampler whose actions differ less is closer to
the mean of what it was shown: smoother, and less diverse.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import numpy as np
import torch
from tqdm import tqdm

from accel import accelerated
from policies import DiffusionPolicy, load_policy
from runners.episodes.loop import query_noise
from runners.episodes.queries import Queries
from runners.store.folder import dump
from runners.studies.arms import sampler_label

from .measured import keep_measured

SAMPLERS: tuple[dict[str, Any], ...] = (
    {"sampler": "checkpoint"},
    *({"sampler": "ddpm", "steps": n} for n in (50, 20, 10, 7, 5, 4, 3)),
    *({"sampler": "ddpm", "steps": n, "spacing": "quadratic"} for n in (10, 5)),
    *({"sampler": "ddpm", "steps": n, "spacing": "even"} for n in (10, 5)),
    *({"sampler": "ddim", "steps": n} for n in (10, 5)),
    *({"sampler": "ddim", "steps": n, "eta": 1.0} for n in (10, 5)),
    *({"sampler": "dpmpp", "steps": n} for n in (10, 5)),
    *({"sampler": "dpmpp", "steps": n, "stochastic": True} for n in (10, 5)),
)


def actions(policy: DiffusionPolicy, obs: np.ndarray, n_noises: int) -> np.ndarray:
    """(n, n_noises, n_action_steps, action_dim) in normalised units."""
    found = []
    with accelerated(policy) as fast:
        for i, one in enumerate(tqdm(obs, unit="query", leave=False, disable=None)):
            rows = torch.from_numpy(one[None]).float().expand(n_noises, -1, -1).contiguous()
            noise = [query_noise(0, i, j) for j in range(n_noises)]
            found.append(policy.normalizer.normalize("action", fast.act(rows, noise)).numpy())
    return np.array(found, np.float64)


def measure(task: str, n_queries: int, n_noises: int) -> dict[str, Any]:
    """{label: {"spread", "shift"}}, and what they were measured on."""
    torch.set_num_threads(1)
    policy = load_policy(f"checkpoints/{task}")
    (path,) = Path(f"checkpoints/{task}/calibration").glob("*.npz")
    obs = Queries.load(path).obs[:n_queries]
    found: dict[str, Any] = {"queries": len(obs), "noises": n_noises}
    mean: np.ndarray | None = None
    for chosen in SAMPLERS:
        other = policy.with_sampler(**chosen)
        drawn = actions(other, obs, n_noises)
        centre = drawn.mean(axis=1)
        mean = centre if mean is None else mean
        found[sampler_label(other.sampler_settings)] = {
            "spread": float(np.sqrt(drawn.var(axis=1, ddof=1).mean())),
            "shift": float(np.sqrt(((centre - mean) ** 2).mean())),
        }
    return found


def main() -> int:
    """Measure one task and keep what was measured of the others."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("task")
    words.add_argument("--queries", type=int, default=48)
    words.add_argument("--noises", type=int, default=16)
    options = words.parse_args()
    found = measure(options.task, options.queries, options.noises)
    keep_measured("spread.json", options.task, found)
    print(dump(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
