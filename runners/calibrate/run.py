"""runner=calibrate: observe the plain policy, and how far an accelerated one is from it."""

from __future__ import annotations

import json
import logging
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from accel import CACHES, BranchErrors, Quantized, branch_errors, resolve
from skipstep.whole_files import write_whole

from ..acceleration.calibration import calibration_of, find, locked, queries_of
from ..acceleration.quantization import find_statistics, quantised_of
from ..episodes.observed import tensors
from ..formatting import named, underlined
from ..jobs.description import describe
from ..jobs.job import Job
from ..jobs.prepare import prepare_job
from ..jobs.runner import Runner
from ..jobs.session import run_unless_done, signature
from ..jobs.settings import UserError
from ..store.folder import RunStore
from ..store.names import BRANCH_ERRORS

log = logging.getLogger(__name__)

N_ROWS = 5


@dataclass
class CalibrateConfig:
    """No settings of its own: `calibration` in conf/config.yaml holds them."""

    name: str = "calibrate"


def prepare_calibrate(cfg: DictConfig, config: CalibrateConfig) -> Job:
    """Check what is observed; nothing is written.

    Raises:
        UserError, or one of MISTAKES: one line with the setting, the value and what is allowed.
    """
    job = prepare_job(
        cfg,
        config,
        identity_of_runner={"runner": config.name},
        calibrates=True,
        prefix=f"{config.name}_",
    )
    if job.recipe.choice.path is not None and _plain(job):
        raise UserError(
            "calibration.path must be null with runner=calibrate cache=none quant=none, which "
            f"makes one, got {job.recipe.choice.path}"
        )
    if not job.settings.force or not _plain(job):
        return job
    choice = replace(job.recipe.choice, force=True)  # here the calibration is the run
    return replace(job, recipe=replace(job.recipe, choice=choice))


def _plain(job: Job) -> bool:
    return bool(job.cache.name == job.quant.name == "none")


def run_calibrate(job: Job, folder: Path) -> dict[str, Any]:
    """Find or make the calibration; with a cache, measure its branches on the same queries."""
    force = job.recipe.choice.force

    def stands(done: Mapping[str, Any]) -> bool:
        return not force and _stands(job, done)

    return run_unless_done(job, folder, lambda store: _run(job, store), stands)


def _stands(job: Job, done: Mapping[str, Any]) -> bool:
    """Whether a finished run rests on the calibration and the statistics that are there now."""
    recipe = job.recipe
    calibration = recipe.forced() or find(recipe, job.policy)
    needs = CACHES[job.cache.name].needs_of(job.cache)
    now = {"calibration": calibration.digest(needs) if calibration else None}
    if job.quant.name != "none":
        statistics = recipe.forced_statistics() or find_statistics(recipe, job.policy)
        now["statistics"] = statistics.digest() if statistics else None
    for name, found in now.items():
        if found is None:
            return False
        if found != done[name]["digest"]:
            log.info("finished with another %s: %s", name, done[name]["digest"])
            return False
    return True


def _run(job: Job, store: RunStore) -> dict[str, Any]:
    started = time.perf_counter()
    torch.set_num_threads(job.settings.threads)
    describe(job)
    calibration, path = calibration_of(job)
    needs = CACHES[job.cache.name].needs_of(job.cache)
    volatile = calibration.of("volatility").get("volatility", np.zeros(0)).tolist()
    result = {
        "task": job.task.name,
        "runner": job.runner.name,
        "cache": job.cache.name,
        "adapted": list(job.adapted),
        "calibration": {"path": str(path), "digest": calibration.digest(needs)},
        "n_queries": calibration.n_queries,
        "volatility": {s.name: v for s, v in zip(calibration.sites, volatile, strict=False)},
        "quant": job.quant.name,
        "branch_errors": None,
    }
    copy: Quantized | None = None
    if job.quant.name != "none":
        copy, result["statistics"] = quantised_of(job, queries_are_new=True)
    if not _plain(job):
        with locked(job.recipe.folder):
            queries = queries_of(job)
        errors = branch_errors(
            job.policy,
            resolve(job.policy, job.cache, calibration),
            tensors(queries.obs),
            queries.noise(job.settings.noise_seed),
            quantised=copy.model if copy else None,  # type: ignore[arg-type]
        )
        seeds = sorted(set(queries.seeds.tolist()))
        result["queries"] = {"data": job.recipe.choice.data, "seeds": seeds}
        content = as_json(errors)
        write_whole(store.folder / BRANCH_ERRORS, json.dumps(content))
        result["branch_errors"] = summarise(content)
    result |= {
        "wall_s": round(time.perf_counter() - started, 1),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        **signature(job),
    }
    store.write_result(result)
    return result


def as_json(errors: BranchErrors) -> dict[str, Any]:
    """branch_errors.json: (steps x sites) relative errors and hits, action errors by query."""
    return {
        "sites": [site.name for site in errors.sites],
        "error": errors.error.tolist(),
        "hits": errors.hits.tolist(),
        "action_error": errors.action_error.tolist(),
    }


def summarise(content: Mapping[str, Any]) -> dict[str, Any]:
    """What of branch_errors.json goes to result.json; `action_error` over queries."""
    error, actions = np.array(content["error"]), np.array(content["action_error"])
    return {
        "by_step": error.mean(axis=1).tolist(),
        "by_site": dict(zip(content["sites"], error.mean(axis=0).tolist(), strict=True)),
        "hit_share": float(np.mean(content["hits"])),
        "action_rms_mean": float(actions.mean()),
        "action_rms_p95": float(np.percentile(actions, 95)),
        "n_queries": len(actions),
    }


def _from(queries: Mapping[str, Any]) -> str:
    numbers = ", ".join(map(str, queries["seeds"]))
    data = queries["data"]
    return f"episodes {numbers} of {data}" if data else f"of seeds {numbers}"


def _largest(values: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(values.items(), key=lambda item: -item[1])[:N_ROWS]


def _action_error(errors: Mapping[str, Any]) -> str:
    if "action_rms_mean" not in errors:
        return "of an older version, which took another mean: force=true measures it again"
    mean, p95 = errors["action_rms_mean"], errors["action_rms_p95"]
    return f"mean {mean:.4f}, p95 {p95:.4f} (RMS over executed actions, normalised units)"


def render_calibrate(result: Mapping[str, Any], folder: Path) -> str:
    """A result as lines of text for a terminal."""
    title = f"{result['task']}  calibration  {result['n_queries']} queries"
    rows = [
        (f"volatility {rank}", f"{value:.4f}  {name}")
        for rank, (name, value) in enumerate(_largest(result["volatility"]), 1)
    ]
    if errors := result["branch_errors"]:
        title += f"  cache={result['cache']}"
        title += "" if result.get("quant", "none") == "none" else f"  quant={result['quant']}"
        by_step = errors["by_step"]
        rows = [("plan", words) for words in result.get("adapted", [])]
        rows += [("queries", _from(result["queries"]))] if "queries" in result else []
        rows += [
            (f"worst site {rank}", f"{value:.3f}  {name}")
            for rank, (name, value) in enumerate(_largest(errors["by_site"]), 1)
        ]
        picked = sorted({round(x) for x in np.linspace(0, len(by_step) - 1, 2 * N_ROWS)})
        rows += [
            ("by step", "  ".join(f"{s}: {by_step[s]:.3f}" for s in picked)),
            ("hits", f"{errors['hit_share']:.1%} of the cells"),
            ("action error", _action_error(errors)),
        ]
    rows += [
        ("time", f"{result['wall_s']} s, peak memory {result['peak_memory_mb']} MB"),
        ("calibration", result["calibration"]["path"]),
        ("files", str(folder)),
    ]
    return underlined(title, named(rows))


CALIBRATE = Runner(CalibrateConfig, prepare_calibrate, run_calibrate, render_calibrate)
