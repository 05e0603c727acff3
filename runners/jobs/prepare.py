"""From a composed configuration to a checked job: the checkpoint is read, nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from accel import PlanError
from envs import EnvError, Task, resolve_n_envs
from policies import CheckpointError, DiffusionPolicy

from ..episodes.realtime import Delays
from .checks import check_method
from .chosen import Chosen, chosen_of
from .delays import delays_of, realtime_config
from .description import as_config
from .identity import Identity, identify
from .job import Job

OfRunner = Mapping[str, Any]

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


def prepare_job(
    cfg: DictConfig,
    runner: Any,
    *,
    with_policy: bool = True,
    identity_of_runner: OfRunner | Callable[[Task], OfRunner] | None = None,
    calibrates: bool = False,
    prefix: str = "",
) -> Job:
    """Check a run of episodes against the task and the checkpoint that it names.

    Args:
        cfg: The composed configuration.
        runner: The runner's own settings.
        with_policy: False where something else acts; the checkpoint is not read then.
        identity_of_runner: What of its settings changes an episode, for the fingerprint; or what
            finds it out from the task.
        calibrates: True where a calibration is used whatever the cache.
        prefix: Of the run folder's name.

    Raises:
        UserError, or one of MISTAKES: one line with the setting, the value and what is allowed.
    """
    chosen = chosen_of(cfg, runner, with_policy=with_policy, calibrates=calibrates)
    adapted = check_method(chosen)
    given = identity_of_runner or {}
    of_runner = given(chosen.task) if callable(given) else given
    identity = identify(chosen, of_runner, None)
    beside = Path("multirun", chosen.settings.study, _name(chosen, identity, prefix))
    delays = delays_of(realtime_config(cfg.realtime), chosen.task.control_hz, beside)
    if delays:
        chosen = chosen.under(delays)
        adapted = check_method(chosen)
        identity = identify(chosen, of_runner, delays)
    return _job(chosen, identity, adapted, delays, prefix)


def _job(
    chosen: Chosen,
    identity: Identity,
    adapted: tuple[str, ...],
    delays: Delays | None,
    prefix: str,
) -> Job:
    settings, policy, plain = chosen.settings, chosen.policy, chosen.plain
    return Job(
        settings=settings,
        task=chosen.task,
        loaded=policy,
        cache=chosen.cache,
        quant=chosen.quant,
        engine=chosen.engine,
        sampler=chosen.sampler,
        warm=chosen.warm,
        adapted=adapted,
        recipe=chosen.recipe,
        logger=chosen.logger,
        runner=chosen.runner,
        checkpoint=chosen.checkpoint,
        n_envs=resolve_n_envs(
            settings.n_envs,
            settings.n_episodes,
            chosen.task.memory_mb,
            settings.max_envs,
            settings.policy_batch if policy else 1,
        ),
        fingerprint=identity.fingerprint,
        name=_name(chosen, identity, prefix),
        baseline_name=_folder(chosen, prefix, "none_none", identity.baseline),
        config=as_config(chosen, identity, delays),
        delays=delays,
        plain=_as_timed(plain, policy, settings.device) if plain and policy else None,
        plain_engine=chosen.plain_engine,
    )


def _name(chosen: Chosen, identity: Identity, prefix: str) -> str:
    method = f"{chosen.cache.name}_{chosen.quant.name}"
    return _folder(chosen, prefix, method, identity.fingerprint)


def _folder(chosen: Chosen, prefix: str, method: str, fingerprint: str) -> str:
    """The name of a run's folder."""
    return f"{prefix}{chosen.task.name}_{method}_s{chosen.settings.noise_seed}_{fingerprint}"


def _as_timed(plain: DiffusionPolicy, policy: DiffusionPolicy, device: str) -> DiffusionPolicy:
    """The plain policy on the device of `policy`, and with as many actions."""
    if plain.n_action_steps != policy.n_action_steps:  # under delays
        plain = plain.with_n_action_steps(policy.n_action_steps)
    return plain.to(device)
