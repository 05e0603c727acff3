"""Quantised copies of exact checkpoints: statistics and codes, found, or made once and shared."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel import (
    CACHES,
    AcceleratedPolicy,
    CachePlan,
    Quantized,
    Statistics,
    WarmStarted,
    accelerated,
    collect,
    kernel_times,
    kernels_of,
    load_quantized,
    loud_forecasts,
    quantize,
    save_quantized,
)
from accel.accelerated_policy import digest_of
from accel.engines.backend import slower_layers
from accel.quant.statistics_file import file_path
from policies import DiffusionPolicy
from skipstep.observations import take

from ..episodes.observed import tensors
from ..jobs.calibration_choice import Recipe
from ..jobs.settings import digest
from ..machine import cpu
from .calibration import find, locked, plan_of, queries_of, source_of

if TYPE_CHECKING:
    from ..jobs.job import Job

log = logging.getLogger(__name__)

BATCH = 8  # queries that are watched at once


@dataclass(frozen=True)
class Acceleration:
    """What a job's policy is made cheaper by.

    Attributes:
        plan: of its cache.
        quantised: the copy that runs in its place, if any.
        calibration, statistics: {"path", "digest"} of what the plan and the codes rest on.
        warnings: what is to be expected of the two together.
        kernels: {layer: kernel} of the copy's layers.
    """

    plan: CachePlan
    quantised: Quantized | None
    calibration: dict[str, str] | None
    statistics: dict[str, str] | None = None
    warnings: tuple[str, ...] = ()
    kernels: Mapping[str, str] = field(default_factory=dict)

    def digest(self) -> str:
        """Hash of what the accelerated policy does."""
        return digest_of(self.plan, self.quantised, self.kernels)


def acceleration_of(job: Job) -> Acceleration:
    """The plan and the quantised copy of a job's policy; what they rest on is made first."""
    plan, calibration = plan_of(job)
    if job.quant.name == "none":
        return Acceleration(plan, None, calibration)
    copy, statistics = quantised_of(job, CACHES[job.cache.name].calibrated)
    model: Any = copy.model
    kernels = kernels_of(model, job.engine)
    return Acceleration(plan, copy, calibration, statistics, warnings_of(job, plan, copy), kernels)


def accelerate(
    job: Job, acceleration: Acceleration
) -> AbstractContextManager[AcceleratedPolicy | WarmStarted]:
    """The job's policy, made cheaper by this."""
    found = acceleration
    plan = found.plan if job.warm is None else None  # a warm query has other steps
    return accelerated(
        job.policy, plan, found.quantised, job.engine, kernels=found.kernels, warm=job.warm
    )


def warnings_of(job: Job, plan: CachePlan, copy: Quantized) -> tuple[str, ...]:
    """Forecasts that are louder than what they forecast, as far as a calibration says."""
    forecasts = plan.alpha is not None and not plan.mask.all()
    calibration = job.recipe.forced() or find(job.recipe, job.policy) if forecasts else None
    if calibration is None:
        return ()
    loud = loud_forecasts(plan, calibration, copy.layers, job.policy.sizes.encoder_only)
    if loud is None:
        return ()
    log.warning("cache=%s quant=%s: %s", job.cache.name, job.quant.name, loud)
    return (str(loud),)


def quantised_of(job: Job, queries_are_new: bool = False) -> tuple[Quantized, dict[str, str]]:
    """The quantised copy, and where its statistics are.

    Both are kept in the folder of the automatic calibration, under its lock, so two processes never
    make them at once. A copy of other settings, weights or statistics is made anew.

    Args:
        job: with a quantisation.
        queries_are_new: with calibration.force, whether somebody has played them already.
    """
    recipe = job.recipe
    with locked(recipe.folder):
        statistics = recipe.forced_statistics()
        path = file_path(recipe.folder if statistics is None else recipe.chosen_folder)
        if statistics is None and not recipe.choice.force:
            statistics = find_statistics(recipe, job.policy)
        if statistics is None:
            statistics = _make_statistics(job, path, recipe.choice.force and not queries_are_new)
        copy = recipe.folder / f"quant_{digest(asdict(job.quant))}.safetensors"
        found = _find_copy(job, copy, statistics.digest()) or _make_copy(job, copy, statistics)
    return found, {"path": str(path), "digest": statistics.digest()}


def find_statistics(recipe: Recipe, policy: DiffusionPolicy) -> Statistics | None:
    """The automatic statistics, None where they are missing or damaged."""
    path = file_path(recipe.folder)
    if not path.exists():
        return None
    try:
        statistics = Statistics.load(path)
        statistics.check(policy)
    except ValueError as error:
        log.warning("%s: to be made anew", error)
        return None
    return statistics


def _make_statistics(job: Job, path: Path, anew: bool) -> Statistics:
    log.info("statistics of the inputs of layers in %s", path.parent)
    queries = queries_of(job, anew)
    obs, noise = tensors(queries.obs), queries.noise(job.settings.noise_seed)
    parts = [slice(i, i + BATCH) for i in range(0, len(queries), BATCH)]
    batches = [(take(obs, part), noise[part]) for part in parts]
    statistics = collect(
        job.policy,
        batches,
        len(batches),
        run=lambda _, batch: job.policy.act(*batch),
        source=source_of(job, queries),
    )
    statistics.save(path)
    return statistics


def _find_copy(job: Job, path: Path, statistics: str) -> Quantized | None:
    if not path.exists() or job.recipe.choice.force:
        return None
    try:
        found = load_quantized(path, job.policy, job.quant, statistics=statistics, backend="torch")
    except ValueError as error:
        log.warning("%s: to be made anew", error)
        return None
    return found


def _make_copy(job: Job, path: Path, statistics: Statistics) -> Quantized:
    made = quantize(job.policy, statistics, job.quant, backend="torch")
    save_quantized(made, path)
    return made


def described(
    job: Job,
    acceleration: Acceleration,
    layers: list[dict[str, Any]],
    previous: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """What result.json says of a quantisation.

    Args:
        job: whose kernels are timed where latency is measured.
        acceleration: of its policy.
        layers: of `AcceleratedPolicy.stats`.
        previous: what result.json said before; its times are kept.
    """
    if acceleration.quantised is None:
        return None
    model: Any = acceleration.quantised.model
    times, slow = (previous or {}).get("kernel_times"), ""
    if job.settings.latency.repeats:
        slow = slower_layers(model, job.engine, acceleration.kernels)
        if times is None:
            found = kernel_times(model, job.engine, acceleration.kernels)
            times = {"cpu": cpu(), "threads": job.settings.threads, "layers": found}
    if slow:
        log.warning("quant=%s: %s", job.quant.name, slow)
    before, after = (sum(layer[f"bytes_{w}"] for layer in layers) for w in ("before", "after"))
    return {
        "weight_bits": job.quant.weight_bits,
        "activation_bits": job.quant.activation_bits,
        "statistics": acceleration.statistics,
        "digest": acceleration.quantised.digest(),
        "warnings": [*acceleration.warnings, *([slow] if slow else [])],
        "bytes_before": before,
        "bytes_after": after,
        "share": sum(layer["share"] for layer in layers),
        "left_out": [asdict(layer) for layer in acceleration.quantised.left_out],
        "layers": layers,
        "kernel_times": times,
    }
