"""What a configuration names, read and checked one by one: settings, method, checkpoint, task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig

from accel import CACHES, ENGINES, QUANTIZERS, WARM, resolve_engine
from envs import Task
from policies import DiffusionPolicy

from ..episodes.realtime import Delays
from ..loggers import LOGGERS
from .calibration_choice import Recipe, recipe_of
from .checkpoint import check_simulator, load, policy_and_task, task_of
from .delays import realtime_config
from .settings import GROUPS, LoggerChoice, SamplerChoice, Settings, UserError, build, choose

START = {"from": "start"}  # the setting's name is no name in Python


@dataclass(frozen=True)
class Chosen:
    """What a configuration names; see `Job` for what is not said here.

    Attributes:
        policy, plain: None where something else than a policy acts.
        warm: how queries use the last one; None: not at all.
        engine: with nothing left to the machine or the network.
        calibrates: a calibration is used whatever the cache.
    """

    settings: Settings
    logger: LoggerChoice
    runner: Any
    cache: Any
    quant: Any
    engine: Any
    plain_engine: Any
    sampler: SamplerChoice
    warm: Any
    policy: DiffusionPolicy | None
    plain: DiffusionPolicy | None
    task: Task
    checkpoint: str
    recipe: Recipe
    calibrates: bool

    @property
    def quantizes(self) -> bool:
        return bool(self.quant.name != "none")

    @property
    def uses_calibration(self) -> bool:
        return bool(self.calibrates or CACHES[self.cache.name].calibrated)

    def under(self, delays: Delays) -> Chosen:
        """The same where answers come late: as many more actions, as the first are too late."""
        assert self.policy is not None
        n_steps = self.policy.n_action_steps + delays.lead
        policy = self.policy.with_n_action_steps(min(n_steps, self.policy.longest_chunk))
        depends_on = {**self.recipe.depends_on, "policy": policy.fingerprint()}
        return replace(self, policy=policy, recipe=replace(self.recipe, depends_on=depends_on))


def settings_and_logger(cfg: DictConfig) -> tuple[Settings, LoggerChoice]:
    """What every runner has."""
    scalars = {k: v for k, v in cfg.items() if k not in (*GROUPS, "hydra")}
    settings: Settings = build(Settings, scalars, "")
    logger: LoggerChoice = build(LoggerChoice, cfg.logger, "logger")
    if logger.name not in LOGGERS:
        raise UserError(f"logger must be one of {', '.join(LOGGERS)}, got {logger.name!r}")
    LOGGERS[logger.name].check()
    for setting, there in (
        ("shard", settings.shard),
        ("film", settings.film),
        ("realtime", realtime_config(cfg.realtime).active),
    ):
        if there and cfg.runner.name != "evaluate":
            raise UserError(f"{setting} needs runner=evaluate, got runner={cfg.runner.name}")
    return settings, logger


def chosen_of(cfg: DictConfig, runner: Any, *, with_policy: bool, calibrates: bool) -> Chosen:
    """What a configuration names; the checkpoint is read only where a policy acts.

    Raises:
        UserError, or one of MISTAKES: one line with the setting, the value and what is allowed.
    """
    settings, logger = settings_and_logger(cfg)
    cache, quant = choose(CACHES, cfg.cache, "cache"), choose(QUANTIZERS, cfg.quant, "quant")
    engine = plain_engine = choose(ENGINES, cfg.engine, "engine")
    sampler: SamplerChoice = build(SamplerChoice, cfg.sampler, "sampler")
    warm = choose(WARM, {START.get(key, key): value for key, value in cfg.warm.items()}, "warm")
    policy = plain = None
    if with_policy:
        policy, task, checkpoint = policy_and_task(cfg.task, sampler, settings.device)
        plain = load(checkpoint, cfg.task)  # the baseline: its own sampler, nothing accelerated
        plain_engine = resolve_engine(engine, policy)
        engine = plain_engine if quant.name == "none" else resolve_engine(engine, policy, quant)
    else:
        task, checkpoint = task_of(cfg.task, {}), ""
        check_simulator(task, f"task={task.name}")
    return Chosen(
        settings=settings,
        logger=logger,
        runner=runner,
        cache=cache,
        quant=quant,
        engine=engine,
        plain_engine=plain_engine,
        sampler=sampler,
        warm=warm if warm.active else None,
        policy=policy,
        plain=plain,
        task=task,
        checkpoint=checkpoint,
        recipe=recipe_of(cfg, settings, task, policy),
        calibrates=calibrates,
    )
