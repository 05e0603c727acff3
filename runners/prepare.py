"""From a composed configuration to a checked job: the checkpoint is read, nothing is written."""

from __future__ import annotations

import hashlib
import json
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
from .settings import (
    GROUPS,
    PROJECT,
    CheckpointChoice,
    LoggerChoice,
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


@dataclass(frozen=True)
class Job:
    """One checked run."""

    settings: Settings
    task: Task
    policy: DiffusionPolicy
    cache: Any
    quant: Any
    engine: Any
    sampler: SamplerChoice
    logger: LoggerChoice
    runner: Any
    checkpoint: str
    n_envs: int
    fingerprint: str
    name: str
    baseline_name: str
    config: dict[str, Any]

    @property
    def seeds(self) -> range:
        return range(self.settings.start_seed, self.settings.start_seed + self.settings.n_episodes)


def settings_and_logger(cfg: DictConfig) -> tuple[Settings, LoggerChoice]:
    """What every runner has."""
    scalars = {k: v for k, v in cfg.items() if k not in (*GROUPS, "hydra")}
    settings: Settings = build(Settings, scalars, "")
    logger: LoggerChoice = build(LoggerChoice, cfg.logger, "logger")
    if logger.name not in LOGGERS:
        raise UserError(f"logger must be one of {', '.join(LOGGERS)}, got {logger.name!r}")
    LOGGERS[logger.name].check()
    return settings, logger


def prepare_policy(cfg: DictConfig, runner: Any) -> Job:
    """Check a composed configuration against the checkpoint it names; nothing is written.

    Raises:
        UserError, or one of MISTAKES: one line with the setting, the value and what is allowed.
    """
    settings, logger = settings_and_logger(cfg)
    cache, quant = choose(CACHES, cfg.cache, "cache"), choose(QUANTIZERS, cfg.quant, "quant")
    engine = choose(ENGINES, cfg.engine, "engine")
    sampler: SamplerChoice = build(SamplerChoice, cfg.sampler, "sampler")
    policy, task, checkpoint = _policy_and_task(cfg.task, sampler, settings.device)
    budget = getattr(cache, "steps", 1)
    if budget > policy.n_inference_steps:
        raise UserError(
            f"cache.steps must be at most {policy.n_inference_steps} (the steps of the sampler), "
            f"got {budget}"
        )
    resolve(policy, cache)
    identity = {
        "task": public(task),
        "policy": policy.fingerprint(),
        "quant": asdict(quant),
        "engine": asdict(engine),
        "noise_seed": settings.noise_seed,
        "policy_batch": settings.policy_batch,
        "threads": settings.threads,
        "device": torch.device(settings.device).type,
    }
    fingerprint = digest({**identity, "cache": asdict(cache)})
    plain = load(
        checkpoint, cfg.task
    )  # the baseline is the checkpoint as it is: its own sampler, nothing accelerated
    baseline = digest(
        {
            **identity,
            "policy": plain.fingerprint(),
            "quant": {"name": "none"},
            "cache": {"name": "none"},
        }
    )
    prefix = f"{cfg.task.name}_{{}}_{{}}_s{settings.noise_seed}_{{}}"
    return Job(
        settings=settings,
        task=task,
        policy=policy,
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
            settings.policy_batch,
        ),
        fingerprint=fingerprint,
        name=prefix.format(cache.name, quant.name, fingerprint),
        baseline_name=prefix.format("none", "none", baseline),
        config={
            **asdict(settings),
            "task": {**public(task), "checkpoint": checkpoint},
            "cache": asdict(cache),
            "quant": asdict(quant),
            "engine": asdict(engine),
            "sampler": asdict(policy.config.sampler),
            "logger": asdict(logger),
            "runner": asdict(runner),
            "fingerprint": fingerprint,
        },
    )


def public(task: Task) -> dict[str, Any]:
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
    if node.get("name") not in TASKS:
        raise UserError(f"task must be one of {', '.join(TASKS)}, got {node.get('name')!r}")
    path = _locate(str(node.checkpoint))
    policy = load(path, node)
    info = policy.config.task
    foreign = [name for name in TASKS if name != node.name and name in info.name]
    if foreign:
        raise UserError(
            f"task.checkpoint {path} was trained for {info.name}, not for task={node.name}"
        )
    own = {f.name for f in fields(CheckpointChoice)}
    values = {k: v for k, v in node.items() if k not in own}
    config_class = TASKS[node.name][0]
    for key in (
        "abs_action",
        "robot_noise_ratio",
    ):  # what the checkpoint says is not to be contradicted
        if key not in {f.name for f in fields(config_class)}:
            continue
        said, asked = getattr(info, key), values.get(key)
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


def digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
