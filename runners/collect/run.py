"""Rollouts to datasets: episodes are kept as they end, and put together in the order of seeds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.errors import CompactHydraException

from accel import AcceleratedPolicy

from ..episodes.loop import evaluate
from ..episodes.trajectory import Trajectory
from ..formatting import named, task_words, underlined
from ..jobs.job import Job
from ..jobs.runner import Runner
from ..jobs.session import logged, run_unless_done, signature
from ..loggers import NullLogger
from ..metrics import wilson
from ..progress import Progress
from ..store.folder import RunStore
from ..store.names import TRAJECTORIES
from .demos import Demo, DemoSet
from .prepare import FORMATS, CollectConfig, prepare_collect
from .sources import SOURCES

log = logging.getLogger(__name__)


class NothingToWriteError(CompactHydraException):
    """No episode is worth keeping: a failure in one line, exit code 1."""


def episode_sigma(noise_seed: int, seed: int, noise: float) -> float:
    """The deviation of the action noise of one episode, from 0 to `noise`."""
    return float(np.random.default_rng((noise_seed, seed)).uniform(0.0, noise))


def disturbance(noise_seed: int, noise: float) -> Callable[[int, int, np.ndarray], np.ndarray]:
    """(seed, query, actions) -> noisy actions; a function of these and the noise seed alone."""

    def disturb(seed: int, query: int, actions: np.ndarray) -> np.ndarray:
        sigma = episode_sigma(noise_seed, seed, noise)
        random = np.random.default_rng((noise_seed, seed, query + 1))
        return actions + random.normal(0.0, sigma, actions.shape)

    return disturb if noise else lambda seed, query, actions: actions


def run_collect(job: Job, folder: Path) -> dict[str, Any]:
    """Run the episodes that are missing, write the dataset, write and return the result."""
    return run_unless_done(job, folder, lambda store: _run(job, store), lambda done: False)


def _run(job: Job, store: RunStore) -> dict[str, Any]:
    torch.set_num_threads(job.settings.threads)
    config: CollectConfig = job.runner
    seeds = config.seeds(job.settings)
    tags = f"source={config.source}", f"cache={job.cache.name}"
    with logged(job, store.folder, "collect", *tags) as logger:
        started = time.perf_counter()
        _episodes(job, config, store, logger, seeds)
        records = [store.episodes[seed] for seed in seeds]
        result = _write(job, config, store, records)
        result["wall_s"] = round(time.perf_counter() - started, 1)
        store.write_result(result)
        low, high = result["success_interval"]
        numbers = {k: v for k, v in result.items() if isinstance(v, (int, float, str))}
        logger.finish({**numbers, "success_low": low, "success_high": high}, records, store.folder)
        return result


def _write(
    job: Job, config: CollectConfig, store: RunStore, records: list[dict[str, Any]]
) -> dict[str, Any]:
    """The dataset of the episodes that are worth keeping, and what is to be said of it."""
    ok = [r for r in records if r["status"] == "ok"]
    kept = [r for r in ok if r["success"] or not config.success_only]
    if not kept:
        raise NothingToWriteError(
            f"nothing to write: 0 of {len(records)} episodes succeeded, {len(records) - len(ok)} "
            "had errors; runner.success_only=false keeps failures"
        )
    form = FORMATS[config.format]
    path = Path(config.out) if config.out else store.folder / form.default
    noise = config.largest_noise(job.task)
    sigma = {r["seed"]: episode_sigma(job.settings.noise_seed, r["seed"], noise) for r in kept}
    demos = [
        Demo(r["seed"], r["success"], sigma[r["seed"]], _file(store.folder, r["seed"]))
        for r in kept
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    form.write(path, DemoSet(job.task, demos, config.valid_share, job.fingerprint))
    successes = sum(r["success"] for r in ok)
    return {
        "task": job.task.name,
        "runner": config.name,
        "source": config.source,
        "adapted": list(job.adapted),
        "noise": noise,
        "dataset": str(path),
        "format": config.format,
        "n_demos": len(kept),
        "n_transitions": sum(r["n_steps"] for r in kept),
        "success_rate": successes / len(ok),
        "success_interval": wilson(successes, len(ok)),
        "n_episodes": len(records),
        "n_success": successes,
        "n_errors": len(records) - len(ok),
        "errors": [{"seed": r["seed"], "error": r["error"]} for r in records if r not in ok],
        **signature(job),
    }


def _file(folder: Path, seed: int) -> Path:
    return folder / TRAJECTORIES / f"{seed}.npz"


def _episodes(
    job: Job, config: CollectConfig, store: RunStore, logger: NullLogger, seeds: Sequence[int]
) -> None:
    """Run what is missing; earlier episodes are logged again: the newest W&B file is complete."""
    again = store.missing(seeds)
    missing = [s for s in seeds if s in again or not _file(store.folder, s).exists()]
    progress = Progress(job.name, len(seeds))
    outcomes: list[bool] = []

    def count(record: Mapping[str, Any]) -> None:
        if record["status"] == "ok":
            outcomes.append(record["success"])
        rate = sum(outcomes) / max(len(outcomes), 1)
        progress.episode(f"success {rate:.2f}")
        logger.episode(record, rate)

    for seed in seeds:
        if seed not in missing:
            count(store.episodes[seed])
    if not missing:
        progress.close()
        log.info("all %d episodes are there: %s", len(seeds), store.folder)
        return
    filmed = set(seeds[: job.settings.videos])
    (store.folder / TRAJECTORIES).mkdir(exist_ok=True)
    with progress, SOURCES[config.source](job) as acting:
        if isinstance(acting, AcceleratedPolicy):
            store.keep_to_plan(acting.digest())
        for episode in evaluate(
            acting,
            job.task,
            missing,
            job.n_envs,
            job.settings.noise_seed,
            policy_batch=job.settings.policy_batch if job.loaded else 1,
            disturb=disturbance(job.settings.noise_seed, config.largest_noise(job.task)),
            video_of=lambda seed: (
                store.folder / "videos" / f"{seed}.mp4" if seed in filmed else None
            ),
            who=config.source,
            record=True,
            room_for=lambda query: 0,
            stepped=progress.step,
        ):
            if isinstance(episode.trajectory, Trajectory):
                episode.trajectory.save(_file(store.folder, episode.seed))
            record = episode.record()
            if episode.video:
                record["video"] = str(Path(episode.video).relative_to(store.folder.absolute()))
            store.append(record)
            count(record)


def render_collect(result: Mapping[str, Any], folder: Path) -> str:
    """A result as lines of text for a terminal."""
    title = f"{task_words(result)}  {result['source']}, noise {result['noise']:g}"
    low, high = result["success_interval"]
    rows = {
        "success": f"{result['success_rate']:.3f}  [{low:.3f}, {high:.3f}]  "
        f"({result['n_success']} of {result['n_episodes'] - result['n_errors']})",
        "errors": f"seeds {[e['seed'] for e in result['errors']]}" if result["errors"] else "none",
        "dataset": f"{result['n_demos']} episodes, {result['n_transitions']} steps",
        result["format"]: result["dataset"],
        "files": str(folder),
    }
    if adapted := result.get("adapted"):
        rows["plan"] = "; ".join(adapted)
    return underlined(title, named(rows.items()))


COLLECT = Runner(CollectConfig, prepare_collect, run_collect, render_collect)
