"""What is asked: a checked policy, its calibration, and queries of other episodes to report on."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import open_dict

from accel import Calibration
from policies import DiffusionPolicy
from runners.acceleration.calibration import calibration_of, locked, queries_of
from runners.calibrate.run import CalibrateConfig, prepare_calibrate
from runners.cli import CONF
from runners.episodes.loop import query_noise
from runners.episodes.queries import Queries
from runners.jobs.job import Job
from runners.jobs.settings import UserError

from .measure import Program, actions_of

REPORT_SEED, REPORT_EPISODES = 400000, 1.5  # per episode to choose on: some are short
SAMPLER = re.compile(r"(ddpm|ddim)([1-9]\d*)?")


@dataclass(frozen=True)
class Asked:
    """What the command line asks for.

    Attributes:
        task: as task=.
        checkpoint: as task.checkpoint=, None for the task's own.
        n_queries: to choose settings on, and as many others to report on.
        n_episodes: that those to choose on come from; those to report on come from half as many
            again.
        n_noises: other noises per reported query, which tell how far apart the plain policy's own
            actions are.
        threads: of the policy.
        n_envs: as n_envs=.
    """

    task: str
    checkpoint: str | None = None
    n_queries: int = 64
    n_episodes: int = 8
    n_noises: int = 4
    threads: int = 2
    n_envs: str = "auto"

    def __post_init__(self) -> None:
        if self.n_noises < 1:
            raise ValueError(f"--noises must be at least 1, got {self.n_noises}")


@dataclass(frozen=True, eq=False)
class Questions:
    """Queries with the plain policy's answers, in normalised units.

    Attributes:
        obs: (M, n_obs_steps, obs_dim) float32.
        queries: their seeds and numbers, which make their noise.
        noise_seed: likewise.
        plain: (M, n_action_steps, action_dim), by their own noise.
        others: (M, K, n_action_steps, action_dim), by K other noises; K is 0 where settings are
            chosen.
    """

    obs: np.ndarray
    queries: Queries
    noise_seed: int
    plain: np.ndarray
    others: np.ndarray

    def first(self, n: int) -> Questions:
        """Some of them, evenly spread."""
        rows = np.linspace(0, len(self.obs) - 1, min(n, len(self.obs))).round().astype(int)
        queries = Queries(self.obs[rows], self.queries.seeds[rows], self.queries.numbers[rows])
        return Questions(
            self.obs[rows], queries, self.noise_seed, self.plain[rows], self.others[rows]
        )

    def noise(self) -> list[torch.Generator]:
        return self.queries.noise(self.noise_seed)


@dataclass(frozen=True, eq=False)
class Ground:
    """All that the arms of one sampler share."""

    name: str
    policy: DiffusionPolicy
    calibration: Calibration
    choosing: Questions
    reporting: Questions


@dataclass(frozen=True)
class Jobs:
    """Checked jobs of one sampler: its calibration, and the queries to report on."""

    sampler: str
    calibrating: Job
    reporting: Job


def prepare(asked: Asked, sampler: str) -> Jobs:
    """Check everything; nothing is written.

    Raises:
        UserError, or one of runners.jobs.prepare.MISTAKES: one line.
    """
    match = SAMPLER.fullmatch(sampler)
    if match is None:
        raise UserError(f"--samplers must be ddpm, ddim or such with steps (ddim16), got {sampler}")
    overrides = [
        f"task={asked.task}",
        "runner=calibrate",
        "logger=none",
        f"sampler={match[1]}",
        f"sampler.steps={match[2] or 'null'}",
        f"threads={asked.threads}",
        f"n_envs={asked.n_envs}",
        f"calibration.n_queries={asked.n_queries}",
        f"calibration.n_episodes={asked.n_episodes}",
    ]
    report = [
        f"calibration.start_seed={REPORT_SEED}",
        f"calibration.n_episodes={round(REPORT_EPISODES * asked.n_episodes)}",
    ]
    return Jobs(sampler, _job(asked, overrides), _job(asked, [*overrides, *report]))


def _job(asked: Asked, overrides: Sequence[str]) -> Job:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", list(overrides))
    if asked.checkpoint is not None:
        with open_dict(cfg):
            cfg.task.checkpoint = asked.checkpoint
    return prepare_calibrate(cfg, CalibrateConfig())


def ground_of(jobs: Jobs, asked: Asked, folder: Path) -> Ground:
    """Calibrate and play where that is missing; the plain policy's answers stay in `folder`."""
    torch.set_num_threads(asked.threads)
    calibration, _ = calibration_of(jobs.calibrating)
    sets = []
    for job, n_noises in ((jobs.calibrating, 0), (jobs.reporting, asked.n_noises)):
        with locked(job.recipe.folder):
            queries = queries_of(job)
        sets.append(answered(job, queries, n_noises, folder))
    return Ground(jobs.sampler, jobs.calibrating.policy, calibration, *sets)


def answered(job: Job, queries: Queries, n_noises: int, folder: Path) -> Questions:
    """Queries with the plain policy's answers, by their own noise and by others."""
    seed = job.settings.noise_seed
    path = folder / f"plain_{job.recipe.key}_{n_noises}.npz"
    if not path.exists():
        pairs = list(zip(queries.seeds.tolist(), queries.numbers.tolist(), strict=True))
        program = Program(job.policy, None)
        answers = [
            actions_of(
                program, queries.obs, [query_noise(seed + k, s, n) for s, n in pairs], "plain"
            )
            for k in range(1 + n_noises)
        ]
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.savez(file, answers=np.stack(answers, axis=1))
        os.replace(temporary, path)
    with np.load(path) as found:
        answers = found["answers"]
    return Questions(queries.obs, queries, seed, answers[:, 0], answers[:, 1:])
