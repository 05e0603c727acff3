"""One run, from checked settings to result.json."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from accel import CACHES, AcceleratedPolicy, WarmStarted, accelerated
from skipstep.observations import Arrays, n_rows, take

from ..acceleration.play import film, play_missing, save_time, unfilmed
from ..acceleration.quantization import Acceleration, accelerate, acceleration_of, described
from ..episodes.clock import Clock
from ..episodes.latency import WithinEpisode, measure
from ..episodes.loop import act_padded, query_noise
from ..jobs.description import describe
from ..jobs.job import Job
from ..jobs.session import logged, signature
from ..loggers import NullLogger
from ..machine import machines_of
from ..metrics import paired, wilson
from ..overrides import baseline_command
from ..store.folder import RunStore, read_episodes
from ..store.names import TIME
from ..store.shards import merge
from ..studies.embodied import as_json, differences, means
from ..studies.verdict import verdict
from ..wandb_values import name_of, summary_values
from .accepted import accept, published_episodes
from .cost import as_defined_now, flops_of, with_times

log = logging.getLogger(__name__)


@dataclass
class EvaluateConfig:
    """Success rate and latency."""

    name: str = "evaluate"


def run_evaluate(job: Job, folder: Path) -> dict[str, Any]:
    """Evaluate the episodes that are missing, measure latency, write and return the result.

    A run that is finished already is recognised, and its result returned.
    """
    with RunStore(folder, job.config, job.settings.force) as store:
        accept(job, store)
        merge(store)
        return run_missing(job, store, store.missing(job.seeds))


def run_missing(job: Job, store: RunStore, missing: Sequence[int]) -> dict[str, Any]:
    """Play these seeds in an opened folder and finish the run, unless it is finished."""
    done = store.result()
    if done and _is_complete(job, store, done):
        rests = CACHES[job.cache.name].calibrated or job.quant.name != "none"
        if job.recipe.choice.force and rests:
            done = _calibrated_anew(job, store, done)
        log.info("finished already: %s", store.folder)
        store.forget_other_status()
        done = as_defined_now(job, store, done)
        return {**done, "baseline": compare(job, store.folder, store.episodes)}
    with store.running():
        return _run(job, store, missing)


def _is_complete(job: Job, store: RunStore, done: Mapping[str, Any]) -> bool:
    measured = done["latency"] or not job.settings.latency.repeats
    played = done["n_episodes"] == len(job.seeds) and not store.missing(job.seeds)
    return bool(measured) and played and not unfilmed(job, store)


def play(job: Job, store: RunStore, seeds: Sequence[int]) -> None:
    """Play what is missing of these seeds, and nothing else."""
    torch.set_num_threads(job.settings.threads)
    describe(job)
    cheaper = kept_acceleration(job, store)
    clock = Clock.resume(store.folder / TIME)
    logger = NullLogger(store.folder, {}, job.config)
    with accelerate(job, cheaper) as fast:
        play_missing(job, store, logger, fast, clock, seeds, store.missing(seeds))


def kept_acceleration(job: Job, store: RunStore) -> Acceleration:
    """What the policy is made cheaper by; StoreError if the folder's episodes had another."""
    cheaper = acceleration_of(job)
    store.keep_to_plan(cheaper.digest())
    return cheaper


def _calibrated_anew(job: Job, store: RunStore, done: dict[str, Any]) -> dict[str, Any]:
    """calibration.force=true on a finished run; StoreError if its plan comes out another."""
    torch.set_num_threads(job.settings.threads)
    cheaper = kept_acceleration(job, store)
    log.info("calibrated anew, and the plan is the same: %s", cheaper.digest())
    anew = done | {"calibration": cheaper.calibration}
    if cheaper.quantised is not None:
        anew["quantisation"] = done["quantisation"] | {"statistics": cheaper.statistics}
    store.write_result(anew)
    return anew


def _run(job: Job, store: RunStore, missing: Sequence[int]) -> dict[str, Any]:
    started, clock = time.perf_counter(), Clock.resume(store.folder / TIME)
    torch.set_num_threads(job.settings.threads)
    describe(job)
    cheaper = kept_acceleration(job, store)
    tags = f"cache={job.cache.name}", f"quant={job.quant.name}"
    with logged(job, store.folder, "eval", *tags) as logger:
        with accelerate(job, cheaper) as fast:
            play_missing(job, store, logger, fast, clock, job.seeds, missing)
            film(job, store, fast, unfilmed(job, store))
            previous = store.result() or {}
            latency, stats, layers = _measured(job, store, fast, clock, previous)
        episodes = [store.episodes[s] for s in job.seeds]
        result = {
            **summarise(job, episodes),
            "latency": latency,
            "flops": flops_of(job, stats),
            "baseline": compare(job, store.folder, store.episodes),
            **({"realtime": job.delays.record()} if job.delays else {}),
            "calibration": cheaper.calibration,
            "quantisation": described(job, cheaper, layers, previous.get("quantisation")),
            "adapted": list(job.adapted),
            "stats": stats,
            "wall_s": round(previous.get("wall_s", 0) + time.perf_counter() - started, 1),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "time": clock.seconds(),
            "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            **signature(job),
        }
        store.write_result(result)
        logger.pictures(name_of(job, "eval"), cheaper.plan, latency)
        logger.finish(summary_values(result), episodes, store.folder)
        return result


def _measured(
    job: Job,
    store: RunStore,
    fast: AcceleratedPolicy | WarmStarted,
    clock: Clock,
    previous: Mapping[str, Any],
) -> tuple[dict[str, Any] | None, dict[str, Any], list[dict[str, Any]]]:
    """Latency, what the policy counted, and its quantised layers."""
    observations = store.observations()
    with clock.measuring():
        latency = previous.get("latency") or latency_of(job, fast, observations)
        latency = latency and with_times(job, latency)
    save_time(store, clock)
    if not fast.n_queries and n_rows(observations):
        act_padded(fast, take(observations, slice(1)), [query_noise(0, 0, 0)], 1)
    stats = fast.stats()
    layers = stats.pop("quantised")
    if not fast.n_queries:  # fewer episodes of a run whose observations were not kept
        stats = previous.get("stats", stats)
    return latency, stats, layers


def latency_of(
    job: Job, fast: AcceleratedPolicy | WarmStarted, observations: Arrays
) -> dict[str, Any] | None:
    """Of the accelerated policy, beside the checkpoint's own, plain and in the run's engine."""
    assert job.plain is not None
    config, device = job.settings.latency, job.settings.device
    timed: Any = WithinEpisode(fast.uncounted()) if fast.keeps_memory else fast
    same = job.cache.name == job.quant.name == "none" and job.warm is None
    if same and job.policy.config.sampler == job.plain.config.sampler:
        return measure(timed, job.plain, observations, config, device)
    with accelerated(job.plain, engine=job.plain_engine) as engine:
        return measure(timed, job.plain, observations, config, device, engine)


def summarise(job: Job, episodes: list[dict[str, Any]]) -> dict[str, Any]:
    """Rates over the episodes that ran to their end; errors are listed, not counted."""
    ok = [e for e in episodes if e["status"] == "ok"]
    errors = [{"seed": e["seed"], "error": e["error"]} for e in episodes if e["status"] != "ok"]
    successes = sum(e["success"] for e in ok)
    return {
        "task": job.task.name,
        "cache": job.cache.name,
        "quant": job.quant.name,
        "success_rate": successes / len(ok) if ok else None,
        "success_interval": wilson(successes, len(ok)),
        "n_episodes": len(episodes),
        "n_success": successes,
        "n_errors": len(errors),
        "machines": machines_of(ok),
        "errors": errors,
        "mean_score": float(np.mean([e["score"] for e in ok])) if ok else None,
        "task_metrics": job.task.metrics([e["details"] for e in ok]) if ok else {},
        "embodied": as_json(means(ok)),
    }


def compare(
    job: Job, folder: Path, episodes: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Against the study's unaccelerated arm on common seeds, or the command that makes that arm.

    An arm that was not run here is looked for among the published runs of the study.
    """
    if folder.name == job.baseline_name:
        return None
    baseline = folder.parent / job.baseline_name

    def ended(records: Mapping[int, Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
        return {s: r for s, r in records.items() if r["status"] == "ok" and s in job.seeds}

    there = read_episodes(baseline) or published_episodes(job, job.baseline_name)
    ours, theirs = ended(episodes), ended(there)
    result = paired(*({s: r["success"] for s, r in who.items()} for who in (ours, theirs)))
    if result is None:
        return {"folder": None, "command": baseline_command()}
    return {
        "folder": baseline.name,
        **asdict(result),
        **verdict(folder, result),
        "machines": machines_of(theirs.values()),
        "embodied": as_json(differences(ours.values(), theirs.values())),
    }
