"""The settings of runner=collect, and what they must fit; nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from omegaconf import DictConfig

from envs import TASKS, Task

from ..jobs.job import Job
from ..jobs.prepare import prepare_job
from ..jobs.settings import SamplerChoice, Settings
from ..places import check_writable
from . import lerobot_folder, robomimic_file
from .demos import DemoSet
from .sources import SOURCES


class Format(NamedTuple):
    """How a dataset is written, and which of our runs wrote the one that is there, if any."""

    default: str
    package: str
    write: Callable[[Path, DemoSet], None]
    owner: Callable[[Path], str | None]
    for_images: tuple[str, ...] = ()


FORMATS = {
    "robomimic": Format("dataset.hdf5", "h5py", robomimic_file.write, robomimic_file.owner),
    "lerobot": Format("dataset", "pyarrow", lerobot_folder.write, lerobot_folder.owner, ("PIL",)),
}


@dataclass
class CollectConfig:
    """Where episodes come from and how they are written; conf/runner/collect.yaml says more."""

    name: str = "collect"
    source: str = "expert"
    noise: float | None = None
    success_only: bool = True
    format: str = "robomimic"
    start_seed: int = 0
    test_seeds: bool = False
    valid_share: float = 0.1
    out: str | None = None

    def __post_init__(self) -> None:
        for key, table in (("source", SOURCES), ("format", FORMATS)):
            if getattr(self, key) not in table:
                raise ValueError(
                    f"runner.{key} must be one of {', '.join(table)}, got {getattr(self, key)!r}"
                )
        if self.noise is not None and not 0.0 <= self.noise < np.inf:
            raise ValueError(f"runner.noise must be at least 0, got {self.noise}")
        if not 0.0 <= self.valid_share < 1.0:
            raise ValueError(
                f"runner.valid_share must be from 0 to below 1, got {self.valid_share}"
            )
        if self.start_seed < 0:
            raise ValueError(f"runner.start_seed must be at least 0, got {self.start_seed}")

    def largest_noise(self, task: Task) -> float:
        """Of executed actions; where it is left open, the expert's own, and none for a policy."""
        if self.noise is not None:
            return self.noise
        return task.expert.noise if self.source == "expert" and task.expert else 0.0

    def seeds(self, settings: Settings) -> range:
        return range(self.start_seed, self.start_seed + settings.n_episodes)


def prepare_collect(cfg: DictConfig, config: CollectConfig) -> Job:
    """Check where episodes come from and where they go.

    Raises:
        UserError, or one of MISTAKES: one line with the setting, the value and what is allowed.
    """
    job = prepare_job(
        cfg,
        config,
        with_policy=config.source == "policy",
        identity_of_runner=lambda task: {
            "runner": config.name,
            "source": config.source,
            "noise": config.largest_noise(task),
        },
        prefix=f"{config.name}_",
    )
    if config.source == "expert":
        job = replace(job, task=job.task.for_expert())
    _check(config, job)
    return job


def _check(config: CollectConfig, job: Job) -> None:
    task, seeds = job.task, config.seeds(job.settings)
    if config.source == "expert":
        if task.expert is None:
            there = ", ".join(name for name, (_, kind) in TASKS.items() if kind.expert)
            raise ValueError(
                f"runner.source=expert is there for task={there}, got task={task.name}: "
                "runner.source=policy plays task.checkpoint"
            )
        if task.expert.single and not task.obs_spec.single:
            raise ValueError(
                f"runner.source=expert sees one array of numbers, task={task.name} shows "
                f"{', '.join(task.obs_spec)}: runner.source=policy plays task.checkpoint"
            )
        if task.action_dim != task.expert.action_dim:
            raise ValueError("runner.source=expert acts relatively, got task.abs_action=true")
        for group in ("cache", "quant"):
            if (choice := getattr(job, group).name) != "none":
                raise ValueError(f"{group} must be none with runner.source=expert, got {choice!r}")
        if job.sampler != SamplerChoice():
            raise ValueError(
                "sampler must be checkpoint, without settings, with runner.source=expert (nothing "
                f"is sampled), got {job.sampler.name!r}"
            )
    if seeds[-1] >= job.settings.start_seed and not config.test_seeds:
        raise ValueError(
            f"runner.start_seed: seeds {seeds[0]} to {seeds[-1]} reach the test seeds (from "
            f"start_seed={job.settings.start_seed}); runner.test_seeds=true allows it"
        )
    form = FORMATS[config.format]
    for package in (form.package, *(form.for_images if task.obs_spec.images else ())):
        if find_spec(package) is None:
            raise ValueError(
                f'runner.format={config.format} needs {package}: pip install "skipstep[data]"'
            )
    if config.out is not None:
        out = Path(config.out)
        if out.exists() and form.owner(out) != job.fingerprint:
            raise ValueError(f"runner.out must be new or of the same run, got {out}: exists")
        check_writable(out.absolute().parent)
