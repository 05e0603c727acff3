"""How often the robot succeeds under a search's finalists: episodes on seeds of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from accel import CachePlan, accelerated, resolve

from ..acceleration.play import play_missing
from ..episodes.clock import Clock
from ..evaluate.run import summarise
from ..jobs.job import Job
from ..jobs.settings import digest
from ..loggers import NullLogger
from ..store.folder import RunStore

KEYS = ("success_rate", "success_interval", "n_success", "n_episodes", "n_errors", "mean_score")


def success_of(job: Job, store: RunStore, plan: CachePlan | None) -> dict[str, Any]:
    """Play the search's seeds under a plan, or as they are; what was played before is kept."""
    found = plan or resolve(job.policy, None)
    first, n = job.runner.start_seed, job.runner.episodes
    seeds = range(first, first + n)
    config = {**job.config, "fingerprint": digest({"run": job.fingerprint, "plan": found.digest()})}
    quiet = replace(job, settings=replace(job.settings, videos=0, film=None))
    with RunStore(store.folder / "episodes" / found.digest(), config) as part:
        with accelerated(job.policy, found, engine=job.engine) as fast:
            logger = NullLogger(part.folder, {}, {})
            play_missing(quiet, part, logger, fast, Clock(), seeds, part.missing(seeds))
        whole = summarise(job, [part.episodes[seed] for seed in seeds])
        return {key: whole[key] for key in KEYS}


def best_of(finalists: Sequence[Mapping[str, Any]]) -> int | None:
    """The most successful one; of several the fastest, or without latencies the cheapest."""
    if not finalists or "success" not in finalists[0]:
        return None

    def rank(index: int) -> tuple[float, float]:
        f = finalists[index]
        cost = f["latency"]["p50_ms"] if f["latency"] else f["flops_share"]
        return -(f["success"]["success_rate"] or 0.0), cost

    return min(range(len(finalists)), key=rank)
