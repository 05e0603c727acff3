"""One run, from checked settings to result.json."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from accel import CACHES, flops_share, plain_flops

from .accepted import accept
from .clock import Clock
from .command import baseline_command, command
from .cost import read_latency
from .evaluate import act_padded, query_noise
from .latency import measure
from .loggers import LOGGERS, NullLogger, summary_values, wandb_run
from .metrics import paired, wilson
from .playing import film, play_missing, save_time, unfilmed
from .prepare import Job, describe
from .quantisations import Acceleration, accelerate, acceleration_of, described
from .shards import merge
from .store import TIME, RunStore, read_episodes
from .verdict import verdict
from .versions import versions

log = logging.getLogger(__name__)


@dataclass
class EvaluateConfig:
    """Success rate and latency."""

    name: str = "evaluate"


def run_evaluate(job: Job, folder: Path) -> dict[str, Any]:
    """Evaluate the episodes that are missing, measure latency, write and return the result.

    A run that is finished already is recognised, and its result returned.
    """
    store = RunStore(folder, job.config, job.settings.force)
    try:
        accept(job, store)
        merge(store)
        return run_missing(job, store, store.missing(job.seeds))
    finally:
        store.close()


def run_missing(job: Job, store: RunStore, missing: Sequence[int]) -> dict[str, Any]:
    """Play these seeds in an opened folder and finish the run, unless it is finished."""
    done = store.result()
    if done and _is_complete(job, store, done):
        rests = CACHES[job.cache.name].calibrated or job.quant.name != "none"
        if job.recipe.choice.force and rests:
            done = _calibrated_anew(job, store, done)
        log.info("finished already: %s", store.folder)
        done = _as_defined_now(job, store, done)
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
    logger = LOGGERS[job.logger.name](
        store.folder,
        wandb_run(job, "eval", f"cache={job.cache.name}", f"quant={job.quant.name}"),
        job.config,
    )
    exit_code = 1
    try:
        with accelerate(job, cheaper) as fast:
            play_missing(job, store, logger, fast, clock, job.seeds, missing)
            film(job, store, fast, unfilmed(job, store))
            observations = store.observations()
            previous = store.result() or {}
            with clock.measuring():
                latency = previous.get("latency") or measure(
                    fast, job.policy, observations, job.settings.latency, job.settings.device
                )
                latency = latency and _latency(job, latency)
            save_time(store, clock)
            if not fast.n_queries and len(observations):
                act_padded(fast, observations[:1], [query_noise(0, 0, 0)], 1)
            stats = fast.stats()
            layers = stats.pop("quantised")
        if not fast.n_queries:  # fewer episodes of a run whose observations were not kept
            stats = previous.get("stats", stats)
        result = {
            **summarise(job, [store.episodes[s] for s in job.seeds]),
            "latency": latency,
            "flops": flops_of(job, stats),
            "baseline": compare(job, store.folder, store.episodes),
            **({"realtime": job.delays.record()} if job.delays else {}),
            "calibration": cheaper.calibration,
            "quantisation": described(job, cheaper, layers, previous.get("quantisation")),
            "adapted": list(job.adapted),
            "stats": stats,
            "wall_s": round(previous.get("wall_s", 0) + time.perf_counter() - started, 1),
            "time": clock.seconds(),
            "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "fingerprint": job.fingerprint,
            "command": command(),
            "versions": versions(),
        }
        store.write_result(result)
        logger.finish(summary_values(result), [store.episodes[s] for s in job.seeds], store.folder)
        exit_code = 0
        return result
    finally:
        logger.close(exit_code)


def flops_of(job: Job, stats: Mapping[str, Any]) -> dict[str, Any]:
    """`flops` of result.json, see `cost.Flops`; nothing was asked: no shares."""
    assert job.plain is not None
    plain, n = plain_flops(job.plain), stats["n_queries"]
    computed = np.asarray(stats["computed"]) / max(n, 1)
    return {
        "query": stats["flops"],
        "plain": plain,
        "share": flops_share(job.policy, computed, job.plain) if n else None,
        "executed_share": stats["flops"] / plain if n else None,
    }


def _latency(job: Job, latency: Mapping[str, Any]) -> dict[str, Any]:
    """A latency with its times as fast, whatever version measured it."""
    assert job.plain is not None
    own = job.policy.config.sampler == job.plain.config.sampler
    return read_latency(latency, own, np.random.default_rng(0))


def _as_defined_now(job: Job, store: RunStore, done: dict[str, Any]) -> dict[str, Any]:
    """The result of an older version with FLOPs and speed as they are defined now, and written."""
    flops, latency = done["flops"], done["latency"]
    if "executed_share" not in flops:
        flops = flops_of(job, done["stats"])
    anew = {**done, "flops": flops, "latency": latency and _latency(job, latency)}
    if anew != done:
        store.write_result(anew)
    return anew


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
        "errors": errors,
        "mean_score": float(np.mean([e["score"] for e in ok])) if ok else None,
        "task_metrics": job.task.metrics([e["details"] for e in ok]) if ok else {},
    }


def compare(
    job: Job, folder: Path, episodes: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Against the study's unaccelerated arm on common seeds, or the command that makes that arm."""
    if folder.name == job.baseline_name:
        return None
    baseline = folder.parent / job.baseline_name

    def outcomes(records: Mapping[int, Mapping[str, Any]]) -> dict[int, bool]:
        return {
            s: r["success"] for s, r in records.items() if r["status"] == "ok" and s in job.seeds
        }

    result = paired(outcomes(episodes), outcomes(read_episodes(baseline)))
    if result is None:
        return {"folder": None, "command": baseline_command()}
    return {"folder": baseline.name, **asdict(result), **verdict(folder, result)}
