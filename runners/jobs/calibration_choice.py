"""Which calibration a run uses: the settings, what they depend on, and where it belongs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from accel import Calibration, PlanError, Statistics
from accel.calibration.file import json_path
from accel.quant.statistics_file import file_path
from envs import Task
from policies import DiffusionPolicy

from .checkpoint import public
from .demonstrations import Demonstrated, demonstrated
from .settings import CalibrationChoice, Settings, UserError, build, digest

FOLDER = Path("multirun/calibrations")


@dataclass(frozen=True)
class Recipe:
    """Which calibration a job uses.

    Attributes:
        choice: the settings.
        task: name of the task.
        depends_on: what changes the queries or what is observed on them.
        demos: the demonstrations of calibration.data, where queries are taken from them.
    """

    choice: CalibrationChoice
    task: str
    depends_on: Mapping[str, Any]
    demos: Demonstrated | None = None

    @property
    def key(self) -> str:
        """Of the automatic calibration, known before it is made."""
        choice = self.choice
        where: dict[str, Any]
        if self.demos:
            where = {"data": self.demos.content, "demos": self.demos.numbers}
        elif choice.seeds:
            where = {"seeds": choice.episode_seeds}
        else:
            where = {"n_episodes": choice.n_episodes, "start_seed": choice.start_seed}
        settings = {"n_queries": choice.n_queries, **where}
        return digest({**self.depends_on, "calibration": settings})

    @property
    def folder(self) -> Path:
        """Of the automatic calibration."""
        return FOLDER / f"{self.task}_{self.key}"

    def forced(self) -> Calibration | None:
        """The calibration that calibration.path names, if any."""
        if self.choice.path is None:
            return None
        try:
            return load(Path(self.choice.path))
        except PlanError as error:
            raise UserError(f"calibration.path: {error}") from error

    @property
    def chosen_folder(self) -> Path:
        """That calibration.path names."""
        return json_path(Path(self.choice.path or "")).parent

    def forced_statistics(self) -> Statistics | None:
        """What a quantisation rests on in the folder that calibration.path names, if any."""
        return None if self.choice.path is None else load_statistics(self.chosen_folder)

    def identity(self, needs: Sequence[str] = ()) -> str:
        """What of the calibration changes an episode: the content, or what it will follow from.

        Args:
            needs: statistics of the cache.
        """
        calibration = self.forced()
        return self.key if calibration is None else calibration.digest(needs)

    def statistics_identity(self) -> str:
        """The same of a quantisation's statistics."""
        statistics = self.forced_statistics()
        return self.key if statistics is None else statistics.digest()


def load(path: Path) -> Calibration:
    """Read a calibration, once for as long as its file stays."""
    file = json_path(path)
    return _load(file, file.stat().st_mtime_ns if file.exists() else 0)


@lru_cache(maxsize=2)
def _load(file: Path, stamp: int) -> Calibration:
    return Calibration.load(file)


def load_statistics(folder: Path) -> Statistics:
    """Read statistics, once for as long as their file stays."""
    file = file_path(folder)
    if not file.exists():
        raise UserError(
            f"calibration.path {folder} has no {file.name}, which a quantisation rests on: "
            "runner=calibrate with quant= makes a folder with both"
        )
    return _load_statistics(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _load_statistics(file: Path, stamp: int) -> Statistics:
    return Statistics.load(file)


def check_recipe(
    recipe: Recipe, policy: DiffusionPolicy, settings: Settings, evaluates: bool = True
) -> None:
    """Refuse a foreign calibration, and one of the episodes that the run evaluates.

    Where nothing is evaluated, seeds that are named one by one may be test seeds: how a cache errs
    on an episode that failed.

    Raises:
        UserError: one line that names the setting.
    """
    choice = recipe.choice
    calibration = recipe.forced()
    tested = range(settings.start_seed, settings.start_seed + settings.n_episodes)
    if calibration is not None:
        try:
            calibration.check(policy)
        except PlanError as error:
            raise UserError(f"calibration.path {choice.path}: {error}") from error
        where, seeds = f"calibration.path {choice.path}", _played(calibration.source, recipe.task)
    elif choice.data is not None:
        return
    else:
        where = f"calibration.{'start_seed' if choice.seeds is None else 'seeds'}"
        seeds = choice.episode_seeds
    chosen = calibration is not None or choice.seeds is not None
    if (evaluates or not chosen) and not set(tested).isdisjoint(seeds):
        raise UserError(
            f"{where}: seeds {seeds[0]} to {seeds[-1]} are among the test seeds "
            f"({tested[0]} to {tested[-1]})"
        )


def _played(source: Mapping[str, Any], task: str) -> list[int]:
    """Seeds of the episodes that a calibration of ours comes from, as far as it says."""
    played = source.get("task") == task and source.get("data") is None
    return sorted(set(source.get("seeds", []))) if played else []


def calibration_values(cfg: DictConfig) -> Any:
    """calibration=PATH is short for calibration.path=PATH, calibration=null for the defaults."""
    node = cfg.get("calibration")
    return node if isinstance(node, DictConfig) else {"path": node}


def recipe_of(
    cfg: DictConfig, settings: Settings, task: Task, policy: DiffusionPolicy | None
) -> Recipe:
    """Which calibration a policy has under these settings."""
    choice: CalibrationChoice = build(CalibrationChoice, calibration_values(cfg), "calibration")
    return Recipe(
        choice,
        task.name,
        {
            "task": public(task),
            "policy": policy.fingerprint() if policy else None,
            "noise_seed": settings.noise_seed,
            "policy_batch": settings.policy_batch,
            "threads": settings.threads,
            "device": torch.device(settings.device).type,
        },
        demonstrated(choice, policy, task) if policy and choice.data is not None else None,
    )
