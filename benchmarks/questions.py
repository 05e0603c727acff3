"""What a policy is asked, what the plain policy answers, and how far other answers are from it."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from accel import Calibration, accelerated, action_error
from policies import DiffusionPolicy
from runners.acceleration.calibration import calibration_of, locked, queries_of
from runners.cli import job_of
from runners.episodes.loop import query_noise
from runners.episodes.queries import Queries
from runners.jobs.job import Job
from runners.jobs.settings import UserError
from skipstep.whole_files import replacing

from .writing import check

REPORT_SEED, REPORT_EPISODES = 400000, 1.5  # per episode of the calibration: some are short
SAMPLER = re.compile(r"(ddpm|ddim)([1-9]\d*)?")
BATCH = 16
N_RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Questions:
    """Queries with the plain policy's answers, in normalised units.

    Attributes:
        queries: observations, seeds and numbers, which make their noise.
        noise_seed: likewise.
        plain: (M, n_action_steps, action_dim), by their own noise.
        others: (M, K, n_action_steps, action_dim), by K other noises; K is 0 where settings are
            chosen.
    """

    queries: Queries
    noise_seed: int
    plain: np.ndarray
    others: np.ndarray

    def first(self, n: int) -> Questions:
        """Some of them, evenly spread."""
        rows = np.linspace(0, len(self.plain) - 1, min(n, len(self.plain))).round().astype(int)
        asked = self.queries
        few = Queries(asked.obs[rows], asked.seeds[rows], asked.numbers[rows])
        return Questions(few, self.noise_seed, self.plain[rows], self.others[rows])


@dataclass(frozen=True, eq=False)
class Ground:
    """All that the arms of one sampler share: settings are chosen on queries of the calibration."""

    sampler: str
    policy: DiffusionPolicy
    calibration: Calibration
    choosing: Questions
    reporting: Questions


def parser_of(name: str, description: str | None, noises: int) -> argparse.ArgumentParser:
    """The options that say what is asked."""
    words = argparse.ArgumentParser(prog=f"benchmarks/{name}.py", description=description)
    words.add_argument("--task", default="kitchen")
    words.add_argument("--queries", type=int, default=64, help="to choose on, and to report on")
    words.add_argument("--episodes", type=int, default=8, help="of the queries to choose on")
    words.add_argument("--noises", type=int, default=noises, help="other noises per reported query")
    words.add_argument("--threads", type=int, default=2, help="as threads=")
    words.add_argument("--out", type=Path, help=f"folder (multirun/{name}/TASK)")
    return words


def jobs_of(options: argparse.Namespace, sampler: str, *more: str) -> tuple[Job, Job]:
    """Checked jobs of a sampler: its calibration, and the queries of other episodes to report on.

    Raises:
        UserError, or one of runners.jobs.prepare.MISTAKES: one line.
    """
    check(options, noises=1)
    match = SAMPLER.fullmatch(sampler)
    if match is None:
        raise UserError(f"--samplers must be ddpm, ddim or such with steps (ddim16), got {sampler}")
    words = [
        *(f"task={options.task}", "runner=calibrate", "logger=none", f"threads={options.threads}"),
        *(f"sampler={match[1]}", f"sampler.steps={match[2] or 'null'}"),
        f"calibration.n_queries={options.queries}",
    ]
    n_reported = round(REPORT_EPISODES * options.episodes)
    reporting = [f"calibration.start_seed={REPORT_SEED}", f"calibration.n_episodes={n_reported}"]
    return (
        job_of([*words, f"calibration.n_episodes={options.episodes}", *more]),
        job_of([*words, *reporting]),
    )


def ground_of(jobs: tuple[Job, Job], sampler: str, n_noises: int, folder: Path) -> Ground:
    """Calibrate and play where that is missing; the plain policy's answers stay in `folder`."""
    calibration, _ = calibration_of(jobs[0])
    asked = [answered(job, n, folder) for job, n in zip(jobs, (0, n_noises), strict=True)]
    return Ground(sampler, jobs[0].policy, calibration, *asked)


def answered(job: Job, n_noises: int, folder: Path) -> Questions:
    """Queries with the plain policy's answers, by their own noise and by others."""
    with locked(job.recipe.folder):
        queries = queries_of(job)
    seed = job.settings.noise_seed
    path = folder / f"plain_{job.recipe.key}_{n_noises}.npz"
    if not path.exists():
        pairs = list(zip(queries.seeds.tolist(), queries.numbers.tolist(), strict=True))
        noises = [[query_noise(seed + k, s, n) for s, n in pairs] for k in range(1 + n_noises)]
        made = [answers(job.policy, None, queries.obs, noise)[0] for noise in noises]
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, answers=np.stack(made, axis=1))
    with np.load(path) as found:
        made = found["answers"]
    return Questions(queries, seed, made[:, 0], made[:, 1:])


def answers(
    policy: DiffusionPolicy,
    plan: Any,
    obs: np.ndarray,
    noise: list[torch.Generator],
    quantised: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Executed actions of the fused engine in normalised units, and what was computed for them.

    Returns:
        (M, n_action_steps, action_dim) float64; (N, n_sites) cells, mean over batches.
    """
    found = []
    with accelerated(policy, plan, quantised) as fast, torch.inference_mode():
        for first in range(0, len(obs), BATCH):
            rows = slice(first, first + BATCH)
            actions = fast.act(torch.from_numpy(obs[rows]), noise[rows])
            found.append(policy.normalizer.normalize("action", actions).double().cpu().numpy())
        computed = np.array(fast.stats()["computed"]) / fast.n_queries
    return np.concatenate(found), computed


def ask(
    asked: Questions, policy: DiffusionPolicy, plan: Any, quantised: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """`answers` to the questions by their own noise."""
    noise = asked.queries.noise(asked.noise_seed)
    return answers(policy, plan, asked.queries.obs, noise, quantised)


def rms(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Root mean square of the difference over (n_action_steps, action_dim), the last two axes."""
    error: np.ndarray = action_error(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    return error


def own_spread(asked: Questions) -> np.ndarray:
    """(M,) mean RMS distance of two actions of the plain policy, over pairs of 1 + K noises."""
    every = np.concatenate([asked.plain[:, None], asked.others], axis=1)
    first, second = np.triu_indices(every.shape[1], 1)
    spread: np.ndarray = rms(every[:, first], every[:, second]).mean(axis=1)
    return spread


def scores(actions: np.ndarray, asked: Questions) -> dict[str, Any]:
    """Everything that is reported of an arm's actions, in normalised units.

    Returns:
        error_mean, error_interval (95 % bootstrap), error_p50, error_p95: of the RMS distance from
            the plain policy's actions by the same noise, over queries; errors: by query.
        flips: share of queries whose error is at least `own_spread`, so that new noise would have
            changed the action no more on average.
        relative: mean error over mean spread.
        nearest: mean distance to the nearest of the plain policy's K actions by other noises. It
            does not know the noise, so a sampler that uses it differently may be compared.
    """
    errors, spread = rms(actions, asked.plain), own_spread(asked)
    rows = np.random.default_rng(0).integers(0, len(errors), (N_RESAMPLES, len(errors)))
    return {
        "error_mean": float(errors.mean()),
        "error_interval": np.percentile(errors[rows].mean(axis=1), [2.5, 97.5]).tolist(),
        "error_p50": float(np.median(errors)),
        "error_p95": float(np.percentile(errors, 95)),
        "flips": float(np.mean(errors >= spread)),
        "relative": float(errors.mean() / spread.mean()),
        "nearest": float(rms(actions[:, None], asked.others).min(axis=1).mean()),
        "errors": errors.round(6).tolist(),
    }
