"""From a composed configuration to a checked job: the checkpoint is read, nothing is written."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from accel import (
    CACHES,
    ENGINES,
    QUANTIZERS,
    PlanError,
    check_plan,
    integers_of,
    resolve,
    resolve_engine,
)
from accel.plans.able import check_branches, check_quantizable
from accel.quant.selection import choose as choose_layers
from accel.quant.selection import linears, usual_attentions
from envs import EnvError, resolve_n_envs
from policies import CheckpointError, DiffusionPolicy, sampler_warnings

from ..episodes.realtime import Delays
from ..loggers import LOGGERS
from ..studies.arms import sampler_label
from .calibration_choice import Recipe, check_recipe, recipe_of
from .checkpoint import check_simulator, load, policy_and_task, public, task_of
from .delays import delays_of, realtime_config
from .job import Job
from .settings import (
    GROUPS,
    LoggerChoice,
    SamplerChoice,
    Settings,
    UserError,
    build,
    choose,
    digest,
)

log = logging.getLogger(__name__)

MISTAKES = (
    CheckpointError,
    EnvError,
    FileNotFoundError,
    ImportError,
    OmegaConfBaseException,
    PlanError,
    TypeError,
    ValueError,
)


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


def prepare_job(
    cfg: DictConfig,
    runner: Any,
    *,
    with_policy: bool = True,
    identity_of_runner: Mapping[str, Any] | None = None,
    calibrates: bool = False,
    prefix: str = "",
    delays: Delays | None = None,
) -> Job:
    """Check a run of episodes against the task and the checkpoint that it names.

    Args:
        cfg: The composed configuration.
        runner: The runner's own settings.
        with_policy: False where something else acts; the checkpoint is not read then.
        identity_of_runner: What of its settings changes an episode, for the fingerprint.
        calibrates: True where a calibration is used whatever the cache.
        prefix: Of the run folder's name.
        delays: Of its queries; where there are none, those that `realtime` asks for.

    Raises:
        UserError, or one of MISTAKES: one line with the setting, the value and what is allowed.
    """
    settings, logger = settings_and_logger(cfg)
    cache, quant = choose(CACHES, cfg.cache, "cache"), choose(QUANTIZERS, cfg.quant, "quant")
    engine, quantises = choose(ENGINES, cfg.engine, "engine"), quant.name != "none"
    sampler: SamplerChoice = build(SamplerChoice, cfg.sampler, "sampler")
    if with_policy:
        policy, task, checkpoint = policy_and_task(cfg.task, sampler, settings.device)
        plain = load(checkpoint, cfg.task)  # the baseline: its own sampler, nothing accelerated
        if delays:  # of a chunk, as many actions come too late
            n_steps = policy.n_action_steps + delays.lead
            policy = policy.with_n_action_steps(min(n_steps, policy.longest_chunk))
        asked = engine
        plain_engine = resolve_engine(asked, policy)
        engine = resolve_engine(asked, policy, quant) if quantises else plain_engine
    else:
        policy, task, checkpoint, plain = None, task_of(cfg.task, {}), "", None
        plain_engine = engine
        check_simulator(task, f"task={task.name}")
    recipe = recipe_of(cfg, settings, task, policy)
    identity = {
        **(identity_of_runner or {}),
        **recipe.depends_on,
        "quant": asdict(quant),
        "engine": asdict(engine),
    }
    of_cache: dict[str, Any] = {"cache": asdict(cache)}
    queries = recipe.choice.seeds or recipe.choice.data
    if queries and recipe.choice.path and not calibrates:
        raise UserError(
            "calibration.path excludes calibration.seeds and calibration.data with "
            f"runner={runner.name}, got {recipe.choice.path} and {queries}"
        )
    if policy:
        of_cache["cache"] = CACHES[cache.name].identity(cache, policy)
    if policy and (calibrates or CACHES[cache.name].calibrated):
        check_branches(policy, f"runner={runner.name}" if calibrates else f"cache={cache.name}")
    if policy and quantises:
        check_quantizable(policy, f"quant={quant.name}")
    if policy and (calibrates or CACHES[cache.name].calibrated or quantises):
        check_recipe(recipe, policy, settings, evaluates=not calibrates)
    if policy and quantises:
        of_cache["statistics"] = check_quant(policy, quant, recipe)
        of_cache["integers"] = integers_of(engine, policy, quant)
    if policy and (calibrates or CACHES[cache.name].calibrated):
        of_cache["calibration"] = recipe.identity(CACHES[cache.name].needs)
        if recipe.choice.path is not None and calibrates:
            of_cache["queries"] = recipe.key
    adapted = check_cache(policy, cache, recipe, engine) if policy else ()
    name = f"{prefix}{cfg.task.name}_{{}}_{{}}_s{settings.noise_seed}_{{}}"
    delayed = {"delays": delays.steps} if delays else {}
    fingerprint = digest({**identity, **of_cache, **delayed})
    if not delays:
        beside = Path("multirun", settings.study, name.format(cache.name, quant.name, fingerprint))
        delays = delays_of(realtime_config(cfg.realtime), task.control_hz, beside)
        if delays:
            return prepare_job(cfg, runner, delays=delays)
    baseline = digest(
        {
            **identity,
            "policy": plain.fingerprint() if plain else None,
            "quant": {"name": "none"},
            "cache": {"name": "none"},
            "engine": asdict(plain_engine),
        }
    )
    return Job(
        settings=settings,
        task=task,
        loaded=policy,
        cache=cache,
        quant=quant,
        engine=engine,
        sampler=sampler,
        adapted=adapted,
        recipe=recipe,
        logger=logger,
        runner=runner,
        checkpoint=checkpoint,
        n_envs=resolve_n_envs(
            settings.n_envs,
            settings.n_episodes,
            task.memory_mb,
            settings.max_envs,
            settings.policy_batch if policy else 1,
        ),
        fingerprint=fingerprint,
        name=name.format(cache.name, quant.name, fingerprint),
        baseline_name=name.format("none", "none", baseline),
        config={
            **{k: v for k, v in asdict(settings).items() if k != "shard"},
            "task": {**public(task), "checkpoint": checkpoint},
            "cache": asdict(cache),
            "quant": asdict(quant),
            "engine": asdict(engine),
            "sampler": policy.config.sampler.settings() if policy else None,
            "logger": asdict(logger),
            "runner": asdict(runner),
            "calibration": of_cache.get("calibration"),
            **({"statistics": of_cache["statistics"]} if "statistics" in of_cache else {}),
            **({"realtime": delays.record()} if delays else {}),
            "fingerprint": fingerprint,
        },
        delays=delays,
        plain=as_timed(plain, policy, settings.device) if plain and policy else None,
        plain_engine=plain_engine,
    )


def as_timed(plain: DiffusionPolicy, policy: DiffusionPolicy, device: str) -> DiffusionPolicy:
    """The plain policy on the device of `policy`, and with as many actions."""
    if plain.n_action_steps != policy.n_action_steps:  # under delays
        plain = plain.with_n_action_steps(policy.n_action_steps)
    return plain.to(device)


def check_cache(
    policy: DiffusionPolicy, cache: Any, recipe: Recipe, engine: Any = None
) -> tuple[str, ...]:
    """Refuse a cache that does not fit the policy's sampler, its forced calibration or the engine.

    Returns:
        What had to be done to a saved plan, see `CachePlan.adapted`.
    """
    budget = getattr(cache, "steps", 1)
    if budget > policy.n_inference_steps:
        raise UserError(
            f"cache.steps must be at most {policy.n_inference_steps} (the steps of the sampler), "
            f"got {budget}"
        )
    calibration = recipe.forced()
    if calibration or not CACHES[cache.name].calibrated:
        plan = resolve(policy, cache, calibration)
        check_plan(engine, plan)
        return plan.adapted
    return ()


def check_quant(policy: DiffusionPolicy, quant: Any, recipe: Recipe) -> str:
    """Refuse patterns that do nothing and foreign statistics; what identifies the statistics."""
    choose_layers(linears(policy, usual_attentions(policy)), quant)
    statistics = recipe.forced_statistics()
    if statistics is not None:
        try:
            statistics.check(policy)
        except ValueError as error:
            raise UserError(f"calibration.path {recipe.choice.path}: {error}") from error
    return recipe.statistics_identity()


def describe(job: Job) -> None:
    """Say what the checkpoint decided."""
    policy, sampler = job.policy, job.policy.config.sampler
    log.info(
        "%s: horizon %d, %d observations, %d actions (%s), %s, %s; "
        "n_envs %d, policy_batch %d, threads %d",
        job.checkpoint,
        policy.horizon,
        policy.n_obs_steps,
        policy.n_action_steps,
        "absolute" if policy.config.task.abs_action else "relative",
        sampler_label(sampler.settings()),
        policy.sizes,
        job.n_envs,
        job.settings.policy_batch,
        job.settings.threads,
    )
    if job.plain is None or sampler != job.plain.config.sampler:  # loading it has said the rest
        for words in sampler_warnings(sampler):
            log.warning("%s", words)
    if job.delays:
        log.info("realtime: a chunk acts %s after it was asked for", job.delays.said)
    for words in job.adapted:
        log.warning("cache=%s: %s", job.cache.name, words)
