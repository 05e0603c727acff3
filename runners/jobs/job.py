"""A checked run of episodes, as everything that plays one gets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from envs import Task
from policies import DiffusionPolicy

from ..episodes.realtime import Delays
from .calibration_choice import Recipe
from .settings import LoggerChoice, SamplerChoice, Settings


@dataclass(frozen=True)
class Job:
    """One checked run of episodes.

    Attributes:
        loaded: None where something else than a policy acts.
        warm: how queries use the last one; None: not at all.
        adapted: what had to be done to a saved plan to make it this policy's.
        plain: the checkpoint's own policy, with its own sampler, of whose FLOPs shares are; as many
            actions as `loaded`.
        plain_engine: what runs it without a quantisation, where the run's engine was asked for.
    """

    settings: Settings
    task: Task
    loaded: DiffusionPolicy | None
    cache: Any
    quant: Any
    engine: Any
    sampler: SamplerChoice
    adapted: tuple[str, ...]
    recipe: Recipe
    logger: LoggerChoice
    runner: Any
    checkpoint: str
    n_envs: int
    fingerprint: str
    name: str
    baseline_name: str
    config: dict[str, Any]
    delays: Delays | None = None
    plain: DiffusionPolicy | None = None
    warm: Any = None
    plain_engine: Any = None

    @property
    def policy(self) -> DiffusionPolicy:
        assert self.loaded is not None, f"runner={self.runner.name} has no policy"
        return self.loaded

    @property
    def seeds(self) -> range:
        return range(self.settings.start_seed, self.settings.start_seed + self.settings.n_episodes)
