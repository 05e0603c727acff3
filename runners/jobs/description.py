"""What is said of a job: in its folder's config.yaml, and in the log when it begins."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from accel.caches import settings_of
from policies import sampler_warnings

from ..episodes.realtime import Delays
from ..studies.arms import sampler_label
from .checkpoint import public
from .chosen import Chosen
from .identity import Identity
from .job import Job

log = logging.getLogger(__name__)

ACTIONS = {True: " (absolute)", False: " (relative)", None: ""}  # as far as the checkpoint says


def as_config(chosen: Chosen, identity: Identity, delays: Delays | None) -> dict[str, Any]:
    """config.yaml of a run."""
    policy, method = chosen.policy, identity.method
    return {
        **{k: v for k, v in asdict(chosen.settings).items() if k != "shard"},
        "task": {**public(chosen.task), "checkpoint": chosen.checkpoint},
        "cache": settings_of(chosen.cache),
        "quant": asdict(chosen.quant),
        "engine": asdict(chosen.engine),
        "sampler": policy.config.sampler.settings() if policy else None,
        "logger": asdict(chosen.logger),
        "runner": asdict(chosen.runner),
        "calibration": method.get("calibration"),
        **({"statistics": method["statistics"]} if "statistics" in method else {}),
        **({"realtime": delays.record()} if delays else {}),
        **({"warm": chosen.warm.settings()} if chosen.warm else {}),
        "fingerprint": identity.fingerprint,
    }


def describe(job: Job) -> None:
    """Say what the checkpoint decided."""
    policy, sampler = job.policy, job.policy.config.sampler
    log.info(
        "%s: horizon %d, %d observations, %d actions%s, %s, %s; "
        "n_envs %d, policy_batch %d, threads %d",
        job.checkpoint,
        policy.horizon,
        policy.n_obs_steps,
        policy.n_action_steps,
        ACTIONS[policy.config.task.abs_action],
        sampler_label(sampler.settings()),
        policy.sizes,
        job.n_envs,
        job.settings.policy_batch,
        job.settings.threads,
    )
    if job.plain is None or sampler != job.plain.config.sampler:  # loading it has said the rest
        for words in sampler_warnings(sampler):
            log.warning("%s", words)
    say_repeated(job)
    say_idle(job)
    if job.delays:
        log.info("realtime: a chunk acts %s after it was asked for", job.delays.said)
    for words in job.adapted:
        log.warning("cache=%s: %s", job.cache.name, words)


def say_repeated(job: Job) -> None:
    """Say where seeds of a run begin alike."""
    starts = job.task.n_start_states
    if starts is not None and len(job.seeds) > starts:
        log.warning(
            "task=%s has %d start states and the run %d seeds: seeds that are %d apart begin "
            "alike, so episodes are less different than the intervals take them to be",
            job.task.name,
            starts,
            len(job.seeds),
            starts,
        )


def say_idle(job: Job) -> None:
    """Say where most rows of the policy's constant batch would be empty."""
    rows, filled = job.settings.policy_batch, job.n_envs
    if 2 * filled <= rows and len(job.seeds) > filled:
        log.info(
            "a query costs %d rows and n_envs=%d fills %d of them: n_envs=%d would give the same "
            "results in less time, where the machine has room for as many simulators",
            rows,
            filled,
            filled,
            min(rows, len(job.seeds)),
        )
