"""runner=search: windows of blocks that meet a ratio, and how far each puts the actions off."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from tqdm import tqdm

from accel import CachePlan, IntervalConfig, accelerated, import_interval, resolve, summarize
from accel.attach.search import exact_ratio, windows
from accel.plans.flops import costs_of
from skipstep.whole_files import write_whole

from ..acceleration.calibration import locked, queries_of
from ..episodes.latency import measure
from ..episodes.queries import Queries
from ..jobs.description import describe
from ..jobs.job import Job
from ..jobs.prepare import prepare_job
from ..jobs.runner import Runner
from ..jobs.session import run_unless_done, signature
from ..jobs.settings import UserError
from ..overrides import job_words, key_of
from ..store.folder import RunStore, dump
from .finalists import best_of, success_of
from .judge import Judge, pareto
from .table import FOUND, render_search

log = logging.getLogger(__name__)


@dataclass
class SearchConfig:
    """What is tried; conf/runner/search.yaml says more."""

    name: str = "search"
    ratio: Any = 1.5
    intervals: list[int] = field(default_factory=lambda: [2, 3, 4, 6])
    starts: list[int] = field(default_factory=lambda: [0, 5])
    screen: int = 8
    finalists: int = 3
    imported: str | None = None
    episodes: int = 0
    start_seed: int = 500000

    def __post_init__(self) -> None:
        at_least = {"screen": 1, "finalists": 1, "episodes": 0, "start_seed": 0}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ValueError(
                    f"runner.{name} must be at least {least}, got {getattr(self, name)}"
                )
        for name, least in {"intervals": 2, "starts": 0}.items():
            values = getattr(self, name)
            if not values or min(values) < least:
                raise ValueError(f"runner.{name} must be numbers from {least}, got {values}")
        for ratio in self.ratios:
            if isinstance(ratio, bool) or not isinstance(ratio, (int, float)):
                raise ValueError(f"runner.ratio must be numbers above 1, got {ratio!r}")

    @property
    def ratios(self) -> list[Any]:
        one = isinstance(self.ratio, (int, float, str))
        return [self.ratio] if one else list(self.ratio)


def prepare_search(cfg: DictConfig, config: SearchConfig) -> Job:
    """Check what is tried; nothing is written.

    Raises:
        UserError, or one of MISTAKES: one line with the setting, the value and what is allowed.
    """
    job = prepare_job(
        cfg,
        config,
        identity_of_runner={"runner": asdict(config)},
        calibrates=True,
        prefix=f"{config.name}_",
    )
    for name, choice in (("cache", job.cache), ("quant", job.quant)):
        if choice.name != "none":
            raise UserError(f"{name} must be none with runner=search, got {choice.name}")
    try:
        costs_of(job.policy)
    except ValueError as error:
        raise UserError(f"runner=search ranks windows by FLOPs: {error}") from error
    for ratio in config.ratios:
        try:
            _candidates(job, ratio)
        except ValueError as error:
            raise UserError(f"runner.{error}") from error
    if config.imported is not None:
        resolve(job.policy, import_interval(config.imported))
    return job


def _candidates(job: Job, ratio: float) -> list[IntervalConfig]:
    config, policy = job.runner, job.policy
    steps, depth = policy.n_inference_steps, policy.sizes.n_layer
    return windows(steps, depth, ratio, config.intervals, config.starts)


def run_search(job: Job, folder: Path) -> dict[str, Any]:
    """Score every candidate, then the finalists on all queries; write plans and numbers."""
    return run_unless_done(job, folder, lambda store: _run(job, store))


def _run(job: Job, store: RunStore) -> dict[str, Any]:
    started = time.perf_counter()
    torch.set_num_threads(job.settings.threads)
    describe(job)
    with locked(job.recipe.folder):
        queries = queries_of(job)
    config: SearchConfig = job.runner
    judge = Judge(job, queries)
    some = np.unique(np.linspace(0, len(queries) - 1, config.screen).round().astype(int))
    tried = {f"{ratio:g}": _screened(job, judge, ratio, some) for ratio in config.ratios}
    chosen = [_key(c) for found in tried.values() for _, c in found[: config.finalists]]
    if config.imported is not None:
        chosen.append(_key(import_interval(config.imported)))
    finalists = [
        _finalist(job, store, judge, queries, number, IntervalConfig("interval", *key))
        for number, key in enumerate(dict.fromkeys(chosen))
    ]
    plain = success_of(job, store, None) if config.episodes else None
    front = pareto([(f["flops_share"], f["error_mean"]) for f in finalists])
    for index, finalist in enumerate(finalists):
        finalist["pareto"] = index in front
    result = {
        "runner": config.name,
        "task": job.task.name,
        "finalists": finalists,
        "best": best_of(finalists),
        "plain_success": plain,
        "n_candidates": sum(map(len, tried.values())),
        "provenance": _provenance(job, queries, len(some)),
        "words": _kept(job_words()),
        "wall_s": round(time.perf_counter() - started, 1),
        **signature(job),
    }
    candidates = {ratio: [record for record, _ in found] for ratio, found in tried.items()}
    write_whole(store.folder / FOUND, dump({**result, "candidates": candidates}))
    store.write_result(result)
    return result


def _screened(
    job: Job, judge: Judge, ratio: float, some: np.ndarray
) -> list[tuple[dict[str, Any], IntervalConfig]]:
    """The windows of a ratio with their errors on some queries, the best first."""
    candidates = _candidates(job, ratio)
    scores = [
        judge.errors(resolve(job.policy, c), some).mean()
        for c in tqdm(candidates, desc=f"ratio {ratio:g}", unit="window", disable=None)
    ]
    order = np.argsort(scores, kind="stable")
    return [(_record(job, candidates[i]) | {"error": scores[i]}, candidates[i]) for i in order]


def _finalist(
    job: Job,
    store: RunStore,
    judge: Judge,
    queries: Queries,
    number: int,
    settings: IntervalConfig,
) -> dict[str, Any]:
    """One window on all queries, with its plan's file, its latency and, if asked for, success."""
    plan = resolve(job.policy, settings)
    errors = judge.errors(plan, np.arange(len(queries)))
    path = store.folder / f"finalist_{number}.json"
    plan.save(path)
    return {
        **_record(job, settings),
        "plan": path.name,
        "digest": plan.digest(),
        "flops_share": summarize(plan, job.policy, job.plain).flops_share,
        "error_mean": float(errors.mean()),
        "error_p95": float(np.percentile(errors, 95)),
        "latency": _latency(job, plan, queries),
        **({"success": success_of(job, store, plan)} if job.runner.episodes else {}),
    }


def _provenance(job: Job, queries: Queries, n_screened: int) -> dict[str, Any]:
    config: SearchConfig = job.runner
    return {
        "policy": job.policy.fingerprint(),
        "sampler": job.policy.sampler_settings,
        "objective": "mean over queries of the RMS distance of executed actions, normalised "
        "units, from the plain policy's on the same noise",
        "seeds": sorted(set(queries.seeds.tolist())),
        "success_seeds": [config.start_seed, config.start_seed + config.episodes],
        "noise_seed": job.settings.noise_seed,
        "n_queries": len(queries),
        "n_screened": n_screened,
        "search": asdict(config),
    }


def _kept(words: Sequence[str]) -> list[str]:
    """What was typed that an evaluation of the finalists has too."""
    groups = ("runner", "cache", "hydra", "latency")
    return [word for word in words if key_of(word).split(".")[0].split("/")[0] not in groups]


def _key(config: IntervalConfig) -> tuple[int, int, int, int | None]:
    return config.start, config.interval, config.first_block, config.n_blocks


def _record(job: Job, config: IntervalConfig) -> dict[str, Any]:
    ratio = exact_ratio(job.policy.n_inference_steps, job.policy.sizes.n_layer, config)
    return {**asdict(config), "ratio": round(ratio, 4)}


def _latency(job: Job, plan: CachePlan, queries: Queries) -> dict[str, float] | None:
    """Median milliseconds at batch 1, in turn with the same engine without a cache."""
    with (
        accelerated(job.policy, plan, engine=job.engine) as fast,
        accelerated(job.policy, engine=job.engine) as plain,
    ):
        found = measure(fast, plain, queries.obs, job.settings.latency, job.settings.device)
    if found is None:
        return None
    ms = {name: found[name]["p50_ms"] for name in ("accelerated", "plain")}
    return {
        "p50_ms": ms["accelerated"],
        "uncached_p50_ms": ms["plain"],
        "ratio": found["times_as_fast"],
    }


SEARCH = Runner(SearchConfig, prepare_search, run_search, render_search)
