"""From a composed configuration to a checked job: the checkpoint is read, nothing is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from accel import CACHES, ENGINES, QUANTIZERS, PlanError, resolve
from envs import TASKS, EnvError, Task, make_task, resolve_n_envs
from policies import CheckpointError, DiffusionPolicy, SamplerConfig, load_policy

from .loggers import LOGGERS
from .registry import RUNNERS
from .settings import (
    GROUPS,
    PROJECT,
    CheckpointChoice,
    LoggerChoice,
    RunnerConfig,
    SamplerChoice,
    Settings,
    UserError,
    build,
    choose,
)

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

SAID_BY_CHECKPOINT = ("abs_action", "robot_noise_ratio")


@dataclass(frozen=True)
class Job:
    """One checked run; `loaded` is None where the runner needs no policy."""

    settings: Settings
    task: Task
    loaded: DiffusionPolicy | None
    cache: Any
    quant: Any
    engine: Any
    sampler: SamplerChoice
    logger: LoggerChoice
    runner: RunnerConfig
    checkpoint: str
    n_envs: int
    fingerprint: str
    name: str
    baseline_name: str
    config: dict[str, Any]

    @property
    def policy(self) -> DiffusionPolicy:
        assert self.loaded is not None, f"runner={self.runner.name} has no policy"
        return self.loaded

    @property
    def seeds(self) -> range:
        return range(self.settings.start_seed, self.settings.start_seed + self.settings.n_episodes)


def prepare(cfg: DictConfig) -> Job:
    """Check a composed configuration against the checkpoint it names; nothing is written.

    Raises:
        UserError: with one line that names the setting, the value and what is allowed.
    """
    try:
        return _prepare(cfg)
    except MISTAKES as error:
        raise UserError(error) from error


def _prepare(cfg: DictConfig) -> Job:
    scalars = {k: v for k, v in cfg.items() if k not in (*GROUPS, "hydra")}
    settings: Settings = build(Settings, scalars, "")
    cache, quant = choose(CACHES, cfg.cache, "cache"), choose(QUANTIZERS, cfg.quant, "quant")
    engine = choose(ENGINES, cfg.engine, "engine")
    logger = build(LoggerChoice, cfg.logger, "logger")
    if logger.name not in LOGGERS:
        raise UserError(f"logger must be one of {', '.join(LOGGERS)}, got {logger.name!r}")
    LOGGERS[logger.name].check()
    runner: RunnerConfig = choose(RUNNERS, cfg.runner, "runner")
    sampler: SamplerChoice = build(SamplerChoice, cfg.sampler, "sampler")
    if runner.needs_policy:
        policy, task, checkpoint = _policy_and_task(cfg.task, sampler, settings.device)
        plain = load(checkpoint, cfg.task)  # the baseline: its own sampler, nothing accelerated
        _check_cache(policy, cache)
    else:
        policy, task, checkpoint, plain = None, _task(cfg.task, {}), "", None
    identity = {
        **runner.identity(),
        "task": _public(task),
        "policy": policy.fingerprint() if policy else None,
        "quant": asdict(quant),
        "engine": asdict(engine),
        "noise_seed": settings.noise_seed,
        "policy_batch": settings.policy_batch,
        "threads": settings.threads,
        "device": torch.device(settings.device).type,
    }
    fingerprint = _digest({**identity, "cache": asdict(cache)})
    baseline = _digest(
        {
            **identity,
            "policy": plain.fingerprint() if plain else None,
            "quant": {"name": "none"},
            "cache": {"name": "none"},
        }
    )
    prefix = f"{runner.prefix}{cfg.task.name}_{{}}_{{}}_s{settings.noise_seed}_{{}}"
    job = Job(
        settings=settings,
        task=task,
        loaded=policy,
        cache=cache,
        quant=quant,
        engine=engine,
        sampler=sampler,
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
        name=prefix.format(cache.name, quant.name, fingerprint),
        baseline_name=prefix.format("none", "none", baseline),
        config={
            **asdict(settings),
            "task": {**_public(task), "checkpoint": checkpoint},
            "cache": asdict(cache),
            "quant": asdict(quant),
            "engine": asdict(engine),
            "sampler": asdict(policy.config.sampler) if policy else None,
            "logger": asdict(logger),
            "runner": asdict(runner),
            "fingerprint": fingerprint,
        },
    )
    runner.check(job)
    return job


def _check_cache(policy: DiffusionPolicy, cache: Any) -> None:
    budget = getattr(cache, "steps", 1)
    if budget > policy.n_inference_steps:
        raise UserError(
            f"cache.steps must be at most {policy.n_inference_steps} (the steps of the sampler), "
            f"got {budget}"
        )
    resolve(policy, cache)


def _public(task: Task) -> dict[str, Any]:
    """Everything of a task that changes an episode."""
    attributes: dict[str, Any] = vars(task)
    values = {
        k: asdict(v) if is_dataclass(v) and not isinstance(v, type) else v
        for k, v in attributes.items()
    }
    return {"name": task.name, **values}


def _policy_and_task(
    node: DictConfig, sampler: SamplerChoice, device: str
) -> tuple[DiffusionPolicy, Task, str]:
    _check_task(node)
    path = _locate(str(node.checkpoint))
    policy = load(path, node)
    info = policy.config.task
    foreign = [name for name in TASKS if name != node.name and name in info.name]
    if foreign:
        raise UserError(
            f"task.checkpoint {path} was trained for {info.name}, not for task={node.name}"
        )
    task = _task(node, {key: getattr(info, key) for key in SAID_BY_CHECKPOINT})
    for dim in ("obs_dim", "action_dim"):
        if getattr(policy, dim) != getattr(task, dim):
            raise UserError(
                f"task.checkpoint {path} has {dim} {getattr(policy, dim)}, "
                f"task={node.name} has {getattr(task, dim)}"
            )
    steps, kind = sampler.steps, None if sampler.name == "checkpoint" else sampler.name
    if steps is not None or kind is not None:
        if steps is not None and steps < 1:
            raise UserError(f"sampler.steps must be at least 1, got {steps}")
        changed: SamplerConfig = policy.config.sampler.with_steps(kind, steps)
        policy = policy.with_sampler(changed)
    return policy.to(device), task, path


def _check_task(node: DictConfig) -> None:
    if node.get("name") not in TASKS:
        raise UserError(f"task must be one of {', '.join(TASKS)}, got {node.get('name')!r}")


def _task(node: DictConfig, said_by_checkpoint: Mapping[str, Any]) -> Task:
    """What the checkpoint says of the task is not to be contradicted."""
    _check_task(node)
    own = {f.name for f in fields(CheckpointChoice)}
    values = {k: v for k, v in node.items() if k not in own}
    config_class = TASKS[node.name][0]
    for key in SAID_BY_CHECKPOINT:
        if key not in {f.name for f in fields(config_class)}:
            continue
        said, asked = said_by_checkpoint.get(key), values.get(key)
        if asked is None:
            values.pop(key, None)
            if said is not None:
                values[key] = said
        elif key == "abs_action" and said is not None and said != asked:
            raise UserError(
                f"task.abs_action={asked} contradicts the checkpoint, which says {said}"
            )
    task = make_task(**asdict(build(config_class, values, "task")))
    for package in task.requires:
        if find_spec(package) is None:
            raise UserError(f'task={node.name} needs {package}: pip install "skipstep[sim]"')
    return task


def load(path: str, node: DictConfig) -> DiffusionPolicy:
    own = {f.name: node[f.name] for f in fields(CheckpointChoice) if f.name in node}
    choice: CheckpointChoice = build(CheckpointChoice, own, "task")
    file = Path(path)
    stamps = (
        [(p.name, p.stat().st_mtime_ns) for p in sorted(file.iterdir())] if file.is_dir() else []
    )
    stamp = (file.stat().st_mtime_ns, *stamps) if file.exists() else ()
    return _load(path, choice.weights, choice.trust, choice.pick, stamp)


@lru_cache(maxsize=4)
def _load(path: str, weights: str, trust: bool, pick: str, stamp: object) -> DiffusionPolicy:
    return load_policy(path, weights, trust=trust, pick=pick)


def _locate(path: str) -> str:
    """A relative checkpoint is looked for here, then beside run.py."""
    return str(PROJECT / path) if not Path(path).exists() and (PROJECT / path).exists() else path


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
