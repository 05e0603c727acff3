"""What an arm costs: FLOPs and latency by today's definitions, whatever version wrote them.

In older results `flops["share"]` was what the engine ran over the plain policy *with the run's own
sampler*, and `latency["ratio"]` was over that policy too. They lack
`flops["executed_share"]` and `latency["times_as_fast"]`. What can be told of such a result:

- FLOPs of the plan: those of the whole network where `stats["computed"]` says that every cell ran;
  what the engine counted where the engine was the reference, which runs every token. Otherwise the
  network's sizes are needed, which a result does not hold: unknown, until the command of the run is
  given again (`job_cost.flops_of` counts the recorded cells, and writes them).
- What shares are of: the plain FLOPs of the study's baseline, which is the checkpoint's
  unaccelerated policy with its own sampler. Without one: unknown, unless the run is it.
- Times as fast: `ratio`, where the run's sampler is the checkpoint's. Otherwise the policy that
  was timed beside it was another one: unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..formatting import conditions
from ..statistics import bootstrap, latency_ratio
from ..store.reading import Run, is_baseline

STAGES = {"encode": "encode_ms", "denoise": "denoise_ms"}  # of a query, and their keys in an arm


@dataclass(frozen=True)
class Flops:
    """Of one query of one row, as `result.json` holds them; what cannot be told is None.

    Attributes:
        query: as run by the engine: an engine may leave out tokens.
        plain: of the checkpoint's unaccelerated policy with its own sampler, all tokens.
        share: of the plan's computed cells, all tokens, over `plain`: see `accel.flops_share`.
        executed_share: `query` over `plain`.
        encode: of encoding images, once a query, beside `query` and beside `plain`; both shares
            count it in both. None where nothing is encoded.
    """

    query: int | None
    plain: int | None
    share: float | None
    executed_share: float | None
    encode: int | None = None


def read_flops(run: Run, baseline: Run | None) -> Flops:
    """What a whole run's result says, or what can be told of an older one."""
    found = run.result["flops"]
    if "executed_share" in found:
        return Flops(**{name: found.get(name) for name in Flops.__dataclass_fields__})
    checkpoint = run if is_baseline(run) else baseline
    plain = checkpoint.result["flops"]["plain"] if checkpoint else None
    planned = _planned(run)
    return Flops(
        query=found["query"],
        plain=plain,
        share=planned / plain if planned and plain else None,
        executed_share=found["query"] / plain if plain else None,
    )


def _planned(run: Run) -> int | None:
    """FLOPs of the cells that ran, all tokens, of an older result."""
    found, stats = run.result["flops"], run.result["stats"]
    plain: int = found["plain"]  # of its own sampler
    if stats["n_queries"] and np.min(stats["computed"]) >= stats["n_queries"]:
        return plain
    engine = (run.config.get("engine") or {}).get("name", "reference")  # once the only one
    return found["query"] if engine == "reference" else None


@dataclass(frozen=True)
class Latency:
    """Of one query at batch 1, next to the plain policy's in the same run, in milliseconds.

    Attributes:
        plain_p50_ms: of the checkpoint's unaccelerated policy in stock modules, with its own
            sampler; None where an older run timed another one.
        ratio: how many times as fast as that policy, in the same run; None likewise.
        engine_ratio: how many times as fast as this engine without the acceleration; None where
            that was not timed.
        warning: why the ratio may not hold on a quiet machine.
        stages_ms: {stage: (median, the plain policy's)} of queries that encode images.
    """

    p50_ms: float
    p50_interval: tuple[float, float]
    p95_ms: float
    p99_ms: float
    plain_p50_ms: float | None
    ratio: float | None
    ratio_interval: tuple[float, float] | None
    engine_ratio: float | None
    warning: str | None
    samples_ms: dict[str, list[float]]
    conditions: str
    stages_ms: dict[str, tuple[float, float]] = field(default_factory=dict)


def latency_of(run: Run, baseline: Run | None, rng: np.random.Generator) -> Latency | None:
    """Of a whole run; None where it was not measured. Intervals that it lacks are bootstrapped."""
    if not run.result["latency"]:
        return None
    told = read_latency(run.result["latency"], own_sampler(run, baseline), rng)
    samples, ratio = told["samples_ms"], told["times_as_fast"]
    bounds, fast = told["times_as_fast_interval"], samples["accelerated"]
    p50, p95, p99 = np.percentile(fast, [50, 95, 99])
    return Latency(
        p50_ms=float(p50),
        p50_interval=bootstrap(fast, lambda rows: np.median(rows, axis=-1), rng),
        p95_ms=float(p95),
        p99_ms=float(p99),
        plain_p50_ms=None if ratio is None else float(np.median(samples["plain"])),
        ratio=ratio,
        ratio_interval=(bounds[0], bounds[1]) if bounds else None,
        engine_ratio=told.get("engine_ratio"),
        warning=told.get("warning"),
        samples_ms=samples,
        conditions=conditions(told),
        stages_ms=stages_of(told),
    )


def stages_of(latency: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """{"encode" and "denoise": median milliseconds, of the arm and of the plain policy}.

    Empty where a query has no such stages.
    """
    arms = [latency.get(arm, {}) for arm in ("accelerated", "plain")]
    return {
        stage: (arms[0][key]["p50"], arms[1][key]["p50"])
        for stage, key in STAGES.items()
        if all(key in arm for arm in arms)
    }


def own_sampler(run: Run, baseline: Run | None) -> bool:
    """Whether a run had the checkpoint's sampler, as far as its study tells."""
    if is_baseline(run):
        return True
    return baseline is not None and run.of(["sampler"]) == baseline.of(["sampler"])


def read_latency(latency: Mapping[str, Any], own: bool, rng: np.random.Generator) -> dict[str, Any]:
    """A result's latency with `times_as_fast` and its interval, None where they are unknown.

    Args:
        latency: of the result.
        own: whether the run had the checkpoint's sampler.
        rng: of the interval, where it was not measured with it.
    """
    if "times_as_fast" in latency:
        return dict(latency)
    samples = latency["samples_ms"]
    ratio, bounds = latency_ratio(samples["plain"], samples["accelerated"], rng)
    told = {"times_as_fast": ratio, "times_as_fast_interval": bounds}
    return {**latency, **(told if own else dict.fromkeys(told))}
