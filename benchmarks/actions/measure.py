"""How far actions are from the plain policy's on the same observations and the same noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from accel import CachePlan, Quantized, accelerated, action_error
from policies import DiffusionPolicy

if TYPE_CHECKING:
    from .questions import Questions

BATCH = 16
N_RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Program:
    """A policy and the plan that it runs under; None computes everything, and quantises nothing."""

    policy: DiffusionPolicy
    plan: CachePlan | None
    quantised: Quantized | None = None


def actions_of(
    program: Program, obs: np.ndarray, noise: list[torch.Generator], title: str = ""
) -> np.ndarray:
    """Executed actions in normalised units, see `answers`."""
    return answers(program, obs, noise, title)[0]


def answers(
    program: Program, obs: np.ndarray, noise: list[torch.Generator], title: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Executed actions in normalised units, and what was computed for them.

    Args:
        program: run by the fused engine.
        obs: (M, n_obs_steps, obs_dim) float32.
        noise: one generator per row.
        title: of a progress bar; none without.

    Returns:
        (M, n_action_steps, action_dim) float64; (N, n_sites) cells, mean over
        batches.
    """
    policy, found = program.policy, []
    hidden = None if title else True  # None: a bar where there is a terminal
    bar = tqdm(total=len(obs), desc=title, unit="query", disable=hidden, leave=False)
    made = accelerated(policy, cache=program.plan, quant=program.quantised)
    with bar, made as fast, torch.inference_mode():
        for first in range(0, len(obs), BATCH):
            rows = slice(first, first + BATCH)
            actions = fast.act(torch.from_numpy(obs[rows]), noise[rows])
            found.append(policy.normalizer.normalize("action", actions).double().cpu().numpy())
            bar.update(len(actions))
        computed = np.array(fast.stats()["computed"]) / fast.n_queries
    return np.concatenate(found), computed


def rms(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Root mean square of the difference over (n_action_steps, action_dim), the last two axes."""
    error: np.ndarray = action_error(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    return error


def own_spread(plain: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(M,) mean RMS distance of two actions of the plain policy, over pairs of 1 + K noises."""
    every = np.concatenate([plain[:, None], others], axis=1)
    first, second = np.triu_indices(every.shape[1], 1)
    spread: np.ndarray = rms(every[:, first], every[:, second]).mean(axis=1)
    return spread


def interval_of_mean(values: np.ndarray, seed: int = 0) -> list[float]:
    """95 % percentile bootstrap over queries."""
    rows = np.random.default_rng(seed).integers(0, len(values), (N_RESAMPLES, len(values)))
    return [float(x) for x in np.percentile(values[rows].mean(axis=1), [2.5, 97.5])]


def scores(actions: np.ndarray, asked: Questions) -> dict[str, Any]:
    """Everything that is reported of an arm's actions, in normalised units.

    Returns:
        error_mean, error_interval, error_p50, error_p95: of the RMS distance from the plain
            policy's actions by the same noise, over queries; errors: by query.
        flips: share of queries whose error is at least `own_spread`, so that new noise would have
            changed the action no more on average.
        relative: mean error over mean spread.
        nearest: mean distance to the nearest of the plain policy's K actions by other noises. It
            does not know the noise, so a sampler that uses it differently may be compared.
    """
    errors = rms(actions, asked.plain)
    spread = own_spread(asked.plain, asked.others)
    return {
        "error_mean": float(errors.mean()),
        "error_interval": interval_of_mean(errors),
        "error_p50": float(np.median(errors)),
        "error_p95": float(np.percentile(errors, 95)),
        "flips": float(np.mean(errors >= spread)),
        "relative": float(errors.mean() / spread.mean()),
        "nearest": float(rms(actions[:, None], asked.others).min(axis=1).mean()),
        "errors": errors.round(6).tolist(),
    }


def unaccelerated(asked: Questions) -> dict[str, dict[str, Any]]:
    """What the plain policy itself scores, by the same noise and by another one."""
    fresh = scores(asked.others[:, 0], asked)
    fresh["nearest"] = None  # it is one of the others
    return {"plain": scores(asked.plain, asked), "plain, other noise": fresh}
