"""Calibrations of exact checkpoints and samplers: found, or made once and shared by every run."""

from __future__ import annotations

import fcntl
import logging
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accel import (
    CACHES,
    CachePlan,
    Calibration,
    PlanError,
    accelerated,
    calibrate,
    complete,
    resolve,
)
from accel.calibration.file import json_path
from policies import DiffusionPolicy
from skipstep.observations import Arrays

from ..episodes.loop import evaluate
from ..episodes.observed import tensors
from ..episodes.queries import Queries, choose_queries
from ..jobs.calibration_choice import Recipe, load
from ..jobs.job import Job
from ..progress import Progress

log = logging.getLogger(__name__)

QUERIES = "queries.npz"


def plan_of(job: Job) -> tuple[CachePlan, dict[str, str] | None]:
    """The plan of a job, and where its calibration is; made first where it is missing."""
    if not CACHES[job.cache.name].calibrated:
        return resolve(job.policy, job.cache), None
    calibration, path = calibration_of(job)
    where = {
        "path": str(path),
        "digest": calibration.digest(CACHES[job.cache.name].needs_of(job.cache)),
    }
    return resolve(job.policy, job.cache, calibration), where


def calibration_of(job: Job) -> tuple[Calibration, Path]:
    """The calibration that a job uses, and its JSON file.

    The automatic one is made under a lock, so two processes never make it at once; its queries are
    written first, and a process that was killed goes on after them. One that lacks a statistic of
    the job's cache is given it.
    """
    recipe = job.recipe
    calibration = recipe.forced()
    if calibration is not None:
        assert recipe.choice.path is not None
        return calibration, json_path(recipe.choice.path)
    with locked(recipe.folder):
        found = None if recipe.choice.force else find(recipe, job.policy)
        return _completed(job, found or _make(job)), json_path(recipe.folder)


def find(recipe: Recipe, policy: DiffusionPolicy) -> Calibration | None:
    """The automatic calibration, None where it is missing or damaged."""
    if not json_path(recipe.folder).exists():
        return None
    try:
        calibration = load(recipe.folder)
        calibration.check(policy)
    except PlanError as error:
        log.warning("%s: to be made anew", error)
        return None
    log.info("calibrated already: %s", recipe.folder)
    return calibration


def queries_of(job: Job, anew: bool = False) -> Queries:
    """The automatic calibration's queries; call it under its lock."""
    path, demos = job.recipe.folder / QUERIES, job.recipe.demos
    shipped = shipped_queries(job.recipe, job.checkpoint)
    for there in () if anew else (path, shipped):
        if (found := _whole(there)) is not None:
            if there == shipped:
                log.info("queries from %s", shipped)
                found.save(path)
            return found
    n_queries = job.recipe.choice.n_queries
    queries = demos.queries(job.policy.n_obs_steps, n_queries) if demos else play(job)
    queries.save(path)
    return queries


def play(job: Job) -> Queries:
    """Queries of episodes that the plain policy plays."""
    choice, settings = job.recipe.choice, job.settings
    seeds = choice.episode_seeds
    progress = Progress("calibration", len(seeds))
    found: dict[int, Arrays] = {}
    with progress, accelerated(job.policy, engine="fused") as plain:
        for episode in evaluate(
            plain,
            job.task,
            seeds,
            job.n_envs,
            settings.noise_seed,
            policy_batch=settings.policy_batch,
            stepped=progress.step,
        ):
            progress.episode("")
            if episode.status == "ok":
                found[episode.seed] = episode.observations
            else:
                log.warning("seed %d is left out: %s", episode.seed, episode.error)
    played = sorted(found)
    return choose_queries(played, [found[s] for s in played], choice.n_queries)


def _whole(path: Path) -> Queries | None:
    """The queries in a file; None where there is none, or, with a warning, a damaged one."""
    if not path.exists():
        return None
    try:
        return Queries.load(path)
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s is damaged (%s): the queries are made anew", path, type(error).__name__)
        return None


def shipped_queries(recipe: Recipe, checkpoint: str) -> Path:
    """Where a checkpoint's folder may hold the queries of this calibration, with its key.

    A calibration from them is the published one but for the last bits of what torch computes, and
    what bac and hash_ab compute under it is the same: no episode is played, and the choice does not
    depend on how the simulator's came out here.
    """
    return Path(checkpoint) / "calibration" / f"{recipe.key}.npz"


def _make(job: Job) -> Calibration:
    recipe, policy = job.recipe, job.policy
    log.info("calibrating in %s", recipe.folder)
    queries = queries_of(job, recipe.choice.force)
    calibration = calibrate(
        policy,
        tensors(queries.obs),
        queries.noise(job.settings.noise_seed),
        source=source_of(job, queries),
    )
    calibration.save(recipe.folder)
    return calibration


def _completed(job: Job, calibration: Calibration) -> Calibration:
    missing = calibration.lacks(CACHES[job.cache.name].needs_of(job.cache))
    if not missing:
        return calibration
    queries = queries_of(job)
    if any(calibration.source.get(n) != v for n, v in queries_in_source(queries).items()):
        log.warning("its queries are others by now: the calibration is made anew")
        calibration = _make(job)
    log.info("measuring %s of the queries in %s", ", ".join(missing), job.recipe.folder)
    found = complete(
        calibration,
        job.policy,
        tensors(queries.obs),
        queries.noise(job.settings.noise_seed),
        missing,
    )
    found.save(job.recipe.folder)
    return found


def queries_in_source(queries: Queries) -> dict[str, list[int]]:
    """Which queries they are, as a calibration's source says it."""
    return {"seeds": queries.seeds.tolist(), "queries": queries.numbers.tolist()}


def source_of(job: Job, queries: Queries) -> dict[str, Any]:
    """Where the queries of a calibration come from, for people and for its file."""
    recipe, policy = job.recipe, job.policy
    return {
        "checkpoint": job.checkpoint,
        "task": recipe.task,
        "network": asdict(policy.sizes),
        "sampler": policy.config.sampler.settings(),
        "key": recipe.key,
        "noise_seed": job.settings.noise_seed,
        "policy_batch": job.settings.policy_batch,
        "threads": job.settings.threads,
        "device": job.settings.device,
        "data": recipe.choice.data,
        **queries_in_source(queries),
    }


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time in a calibration's folder; the others wait for it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            log.info("waiting for another process that makes %s", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
