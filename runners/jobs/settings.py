"""The settings of a run as typed, range-checked objects."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from accel.calibration.calibration import MIN_QUERIES
from policies import SamplerConfig, choose_sampler

from ..episodes.latency import LatencyConfig
from ..errors import UserError as UserError
from ..places import PUBLISHED
from ..store.shards import Shard
from .expected import mistake, number_for_boolean

LONGEST_NAME = 255 - len(".yaml")  # bytes, of a folder on Linux that has a list beside it


@dataclass
class CheckpointChoice:
    """Which weights of which file."""

    checkpoint: str
    pick: str = "best"
    weights: str = "auto"
    trust: bool = False
    allow_foreign: bool = False

    def __post_init__(self) -> None:
        if self.pick not in ("best", "latest"):
            raise ValueError(f"task.pick must be best or latest, got {self.pick!r}")


@dataclass
class SamplerChoice:
    """The checkpoint's sampler, or another over the same process; see `policies.choose_sampler`."""

    name: str = "checkpoint"
    steps: int | None = None
    spacing: str | None = None
    timesteps: list[int] | None = None
    power: float | None = None
    eta: float | None = None
    order: int | None = None
    stochastic: bool | None = None
    variance_type: str | None = None

    def over(self, base: SamplerConfig) -> SamplerConfig:
        """This sampler over the process of another, the checkpoint's."""
        settings = {k: v for k, v in asdict(self).items() if k != "name"}
        return choose_sampler(base, self.name, **settings)


EXCLUSIVE = {
    "path": ("force",),
    "seeds": ("data", "n_episodes", "start_seed"),
    "data": ("n_episodes", "start_seed"),
}


@dataclass
class CalibrationChoice:
    """The calibration of methods that need one; conf/config.yaml says what each setting is for."""

    path: str | None = None
    force: bool = False
    n_queries: int = 64
    n_episodes: int = 8
    start_seed: int = 300000
    seeds: list[int] | None = None
    data: str | None = None
    demos: list[int] | None = None

    def __post_init__(self) -> None:
        at_least = {"n_queries": MIN_QUERIES, "n_episodes": 2, "start_seed": 0}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ValueError(
                    f"calibration.{name} must be at least {least}, got {getattr(self, name)}"
                )
        given = {f.name for f in fields(self) if getattr(self, f.name) != f.default}
        for name, others in EXCLUSIVE.items():
            if name in given and given & set(others):
                both = sorted(given & set(others))[0]
                raise ValueError(f"calibration.{name} excludes calibration.{both}, got both")
        if "demos" in given and self.data is None:
            raise ValueError(f"calibration.demos needs calibration.data, got {self.demos} alone")
        for name in ("seeds", "demos"):
            numbers = getattr(self, name)
            if numbers is not None and sorted({n for n in numbers if n >= 0}) != sorted(numbers):
                raise ValueError(f"calibration.{name} must be different and from 0, got {numbers}")
            if numbers == []:
                raise ValueError(f"calibration.{name} must not be empty")

    @property
    def episode_seeds(self) -> list[int]:
        """Of the episodes that are played."""
        usual = range(self.start_seed, self.start_seed + self.n_episodes)
        return sorted(usual if self.seeds is None else self.seeds)


@dataclass
class LoggerChoice:
    """Where W&B data goes."""

    name: str = "offline"
    project: str = "skipstep"
    entity: str | None = None


@dataclass
class Settings:
    """Everything that is not a choice of a group; conf/config.yaml says what each is for."""

    study: str = "main"
    n_episodes: int = 50
    start_seed: int = 100000
    noise_seed: int = 0
    n_envs: Any = "auto"
    max_envs: int = 16
    policy_batch: int = 8
    threads: int = 1
    device: str = "cpu"
    force: bool = False
    baseline: bool = False
    fail_fast: bool = False
    videos: int = 1
    film: list[int] | None = None
    shard: str | None = None
    accept: str | None = None
    latency: LatencyConfig = field(default_factory=LatencyConfig)

    def __post_init__(self) -> None:
        at_least = {
            "n_episodes": 1,
            "start_seed": 0,
            "noise_seed": 0,
            "max_envs": 1,
            "policy_batch": 1,
            "threads": 1,
            "videos": 0,
        }
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.threads > (cores := os.cpu_count() or 1):
            raise ValueError(
                f"threads must be at most {cores} (the cores of this machine), got {self.threads}"
            )
        if self.n_envs != "auto" and type(self.n_envs) is not int:
            raise ValueError(f"n_envs must be auto or a number, got {self.n_envs!r}")
        if not self.study or set(self.study) & set("/\\ \0") or self.study.startswith("."):
            raise ValueError(f"study must be a folder name, got {self.study!r}")
        if len(os.fsencode(self.study)) > LONGEST_NAME:
            raise ValueError(
                f"study must be a folder name of at most {LONGEST_NAME} bytes, got "
                f"{len(os.fsencode(self.study))}: {self.study[:20]!r}..."
            )
        last = self.start_seed + self.n_episodes - 1
        if wrong := [s for s in self.film or () if not self.start_seed <= s <= last]:
            raise ValueError(
                f"film must name seeds of the run, {self.start_seed} to {last}, got {wrong}"
            )
        if self.accept not in (None, PUBLISHED) and not Path(self.accept).is_dir():
            raise ValueError(
                f"accept must be {PUBLISHED}, null or a folder of runs, got {self.accept!r}"
            )
        if self.shard is not None:
            Shard.parse(self.shard)
            if self.force:
                raise ValueError("force must be false with shard: shards would undo each other")
        check_device(self.device)


GROUPS = (
    "task",
    "cache",
    "quant",
    "engine",
    "sampler",
    "warm",
    "logger",
    "runner",
    "calibration",
    "realtime",
    "also",
    "plugins",
)


def build(cls: type, values: Any, where: str) -> Any:
    """A typed config object from a node; unknown keys, wrong types and ranges are refused.

    Its `${...}` are what they stand for in the whole configuration.
    """
    if isinstance(values, DictConfig):
        values = OmegaConf.create(OmegaConf.to_container(values, resolve=True))
    if wrong := number_for_boolean(cls, values, where):
        raise UserError(wrong)
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), values))
    except OmegaConfBaseException as error:
        raise UserError(mistake(cls, values, where, error)) from error


def choose(table: Mapping[str, Any], node: Any, group: str) -> Any:
    """The config object of a group whose choice names its dataclass in `table`."""
    name = node.get("name")
    if name not in table:
        raise UserError(f"{group} must be one of {', '.join(table)}, got {name!r}")
    entry = table[name]
    return build(entry[0] if isinstance(entry, tuple) else entry, node, group)


def digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device must be cpu or cuda[:n], got {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda[:n], got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name} is not there: {torch.cuda.device_count()} CUDA devices found"
        )
