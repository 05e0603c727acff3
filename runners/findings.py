"""What a study's runs say, as numbers: one object per arm, and methods over all strata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .metrics import Paired, paired, wilson
from .report_words import ms
from .run_folder import Run, is_baseline
from .statistics import (
    NonInferiority,
    Pooled,
    ScoreDifference,
    bootstrap,
    episodes_needed,
    holm,
    latency_ratio,
    noninferiority,
    pooled,
    power,
    score_difference,
)
from .study import Study


@dataclass(frozen=True)
class ReportConfig:
    """margin: a loss of success rate that is small enough; seed: of the bootstrap."""

    margin: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.margin < 1:
            raise ValueError(f"margin must be above 0 and below 1, got {self.margin}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")


@dataclass(frozen=True)
class Latency:
    """Of one query at batch 1, next to the plain policy's in the same run, in milliseconds.

    ratio: the plain policy's median over the arm's; intervals are bootstrapped.
    """

    p50_ms: float
    p50_interval: tuple[float, float]
    p95_ms: float
    p99_ms: float
    plain_p50_ms: float
    ratio: float
    ratio_interval: tuple[float, float]
    samples_ms: dict[str, list[float]]
    conditions: str


@dataclass(frozen=True)
class Versus:
    """An arm against its baseline.

    p_holm: McNemar's p-value, adjusted over the study's comparisons.
    needed: seeds for 80 % power to find a loss of the margin at the discordance seen here
        (at least the margin: a loss makes that many seeds discordant).
    power: of showing non-inferiority with these seeds, were both arms equal.
    won, lost: seeds that only the arm, only the baseline solved.
    """

    baseline: Run
    success: Paired
    p_holm: float
    noninferiority: NonInferiority
    needed: int
    power: float
    score: ScoreDifference
    won: list[int]
    lost: list[int]


@dataclass(frozen=True)
class Arm:
    """One whole run.

    Attributes:
        number: of the arm in the report.
        metrics: {p_1: (successes, n)}, the task's own shares.
        share: its FLOPs over the baseline's plain policy, or over its own without a baseline.
        bound: the speed-up that its FLOPs allow, over the plain policy of its own sampler.
    """

    number: int
    run: Run
    label: str
    stratum: str
    n: int
    n_success: int
    interval: tuple[float, float]
    mean_score: float
    metrics: dict[str, tuple[int, int]]
    share: float
    bound: float
    latency: Latency | None
    versus: Versus | None
    is_baseline: bool

    @property
    def rate(self) -> float:
        return self.n_success / max(self.n, 1)

    @property
    def delay(self) -> float:
        """Mean control delay of its queries, in steps."""
        return float((self.run.result.get("realtime") or {}).get("mean", 0))

    @property
    def method(self) -> str:
        """Its label without the delay."""
        return ", ".join(w for w in self.label.split(", ") if not w.startswith("delay "))


@dataclass(frozen=True)
class Method:
    """A method in all strata that have it."""

    label: str
    strata: list[str]
    pooled: Pooled
    p_holm: float


def findings(study: Study, config: ReportConfig) -> list[Arm]:
    """Judge every whole run; the others have no numbers."""
    arms = [_arm(number, run, study, config) for number, run in enumerate(study.whole, 1)]
    compared = [arm for arm in arms if arm.versus]
    adjusted = iter(holm([arm.versus.success.p_value for arm in compared if arm.versus]))
    return [
        replace(arm, versus=replace(arm.versus, p_holm=next(adjusted))) if arm.versus else arm
        for arm in arms
    ]


def over_strata(arms: Sequence[Arm]) -> list[Method]:
    """Methods that were compared in more than one stratum."""
    groups: dict[str, list[tuple[str, Paired]]] = {}
    for arm in arms:
        if arm.versus:
            groups.setdefault(arm.label, []).append((arm.stratum, arm.versus.success))
    several = {label: found for label, found in groups.items() if len(found) > 1}
    combined = {
        label: pooled([(p.wins, p.losses, p.n) for _, p in found])
        for label, found in several.items()
    }
    adjusted = holm([p.p_value for p in combined.values()])
    return [
        Method(label, [stratum for stratum, _ in several[label]], combined[label], p)
        for label, p in zip(combined, adjusted, strict=True)
    ]


def unsteady(arms: Sequence[Arm], most: float = 1.1) -> list[str]:
    """Where the latency of the same plain policy moved from run to run, as warnings."""
    medians: dict[tuple[str, str], list[float]] = {}
    for arm in arms:
        if arm.latency:
            same = (arm.stratum, arm.run.of(["sampler"]))
            medians.setdefault(same, []).append(arm.latency.plain_p50_ms)
    return [
        f"On {stratum} the plain policy took {ms(min(found))} to {ms(max(found))} ms in different "
        "runs: compare speed-ups, not latencies"
        for (stratum, _), found in medians.items()
        if max(found) > most * min(found)
    ]


def pareto(arms: Sequence[Arm]) -> list[Arm]:
    """Arms that no other beats in both latency and success rate, fastest first."""
    front: list[Arm] = []
    timed = [(arm.latency.p50_ms, -arm.rate, arm) for arm in arms if arm.latency]
    for _, _, arm in sorted(timed, key=lambda entry: entry[:2]):
        if not front or arm.rate > front[-1].rate:
            front.append(arm)
    return front


def _arm(number: int, run: Run, study: Study, config: ReportConfig) -> Arm:
    n, successes = len(run.ok), sum(run.success.values())
    baseline = study.baseline(run)
    flops = run.result["flops"]
    plain = baseline.result["flops"]["plain"] if baseline else flops["plain"]
    shares = {k: v for k, v in run.result["task_metrics"].items() if k.startswith("p_")}
    rng = np.random.default_rng(config.seed)  # anew: an arm's interval knows of no other arm
    return Arm(
        number=number,
        run=run,
        label=study.labels[run.name],
        stratum=study.strata[run.name],
        n=n,
        n_success=successes,
        interval=wilson(successes, n),
        mean_score=float(np.mean(list(run.score.values()))) if n else float("nan"),
        metrics={name: (round(share * n), n) for name, share in shares.items()},
        share=flops["query"] / plain,
        bound=flops["plain"] / flops["query"],
        latency=_latency(run.result["latency"], rng),
        versus=_versus(run, baseline, config, rng) if baseline else None,
        is_baseline=is_baseline(run),
    )


def _latency(latency: dict[str, Any] | None, rng: np.random.Generator) -> Latency | None:
    if not latency:
        return None
    samples = latency["samples_ms"]
    fast = samples["accelerated"]
    ratio, ratio_interval = latency_ratio(samples["plain"], fast, rng)
    p50, p95, p99 = np.percentile(fast, [50, 95, 99])
    return Latency(
        p50_ms=float(p50),
        p50_interval=bootstrap(fast, lambda rows: np.median(rows, axis=-1), rng),
        p95_ms=float(p95),
        p99_ms=float(p99),
        plain_p50_ms=float(np.median(samples["plain"])),
        ratio=ratio,
        ratio_interval=ratio_interval,
        samples_ms=samples,
        conditions=f"batch {latency['batch']}, {latency['threads']} threads, {latency['device']}, "
        f"{latency['repeats']} repeats after {latency['warmup']} warm-ups",
    )


def _versus(
    run: Run, baseline: Run, config: ReportConfig, rng: np.random.Generator
) -> Versus | None:
    ours, theirs = run.success, baseline.success
    result = paired(ours, theirs)
    score = score_difference(run.score, baseline.score, rng)
    if result is None or score is None:
        return None
    common = sorted(ours.keys() & theirs.keys())
    discordance = max(result.wins + result.losses, 1) / result.n
    return Versus(
        baseline=baseline,
        success=result,
        p_holm=result.p_value,
        noninferiority=noninferiority(result.wins, result.losses, result.n, config.margin),
        needed=episodes_needed(config.margin, max(discordance, config.margin)),
        power=power(result.n, discordance, config.margin),
        score=score,
        won=[s for s in common if ours[s] and not theirs[s]],
        lost=[s for s in common if theirs[s] and not ours[s]],
    )
