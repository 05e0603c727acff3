"""What a study's runs say, as numbers: one object per arm, and methods over all strata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..metrics import Paired, paired, wilson
from ..statistics import (
    MARGIN,
    NonInferiority,
    Pooled,
    ScoreDifference,
    episodes_needed,
    holm,
    loss_detected,
    noninferiority,
    pooled,
    power,
    score_difference,
)
from ..store.reading import Run, is_baseline
from .cost import Flops, Latency, latency_of, read_flops
from .speeds import Speed, read_together, speed_of
from .study import Study


@dataclass(frozen=True)
class ReportConfig:
    """margin: a loss of success rate that is small enough; seed: of the bootstrap."""

    margin: float = MARGIN
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.margin < 1:
            raise ValueError(f"margin must be above 0 and below 1, got {self.margin}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")


@dataclass(frozen=True)
class Versus:
    """An arm against its baseline.

    p_holm: McNemar's p-value, adjusted over the study's comparisons.
    needed: seeds that show non-inferiority with 80 % power, were both arms equal, at the
        discordance seen here.
    power: of the same, with these seeds.
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

    @property
    def loss_detected(self) -> bool:
        return loss_detected(self.success.difference, self.p_holm)


@dataclass(frozen=True)
class Arm:
    """One whole run.

    Attributes:
        number: of the arm in the report.
        metrics: {p_1: (successes, n)}, the task's own shares.
        flops: of its plan and as it ran, over the checkpoint's unaccelerated policy.
        speed: how many times as fast as that policy, measured in one run.
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
    flops: Flops
    latency: Latency | None
    versus: Versus | None
    is_baseline: bool
    speed: Speed | None = None

    @property
    def rate(self) -> float:
        return self.n_success / max(self.n, 1)

    @property
    def times_as_fast(self) -> float | None:
        """As the checkpoint's unaccelerated policy in stock modules, in the same run."""
        return self.speed.times if self.speed else None

    @property
    def bound(self) -> float | None:
        """The speed-up that its FLOPs allow, were a saved FLOP saved time."""
        return 1 / self.flops.share if self.flops.share else None

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
    together = read_together(study.folder)
    arms = [_arm(number, run, study, config) for number, run in enumerate(study.whole, 1)]
    arms = [replace(a, speed=speed_of(a.run, a.latency, together)) for a in arms]
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


def pareto(arms: Sequence[Arm]) -> list[Arm]:
    """Arms that no other beats in both speed-up and success rate, fastest first."""
    front: list[Arm] = []
    timed = [(-arm.times_as_fast, -arm.rate, arm) for arm in arms if arm.times_as_fast]
    for _, _, arm in sorted(timed, key=lambda entry: entry[:2]):
        if not front or arm.rate > front[-1].rate:
            front.append(arm)
    return front


def _arm(number: int, run: Run, study: Study, config: ReportConfig) -> Arm:
    n, successes = len(run.ok), sum(run.success.values())
    baseline = study.baseline(run)
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
        flops=read_flops(run, baseline),
        latency=latency_of(run, baseline, rng),
        versus=_versus(run, baseline, config, rng) if baseline else None,
        is_baseline=is_baseline(run),
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
        needed=episodes_needed(config.margin, discordance),
        power=power(result.n, discordance, config.margin),
        score=score,
        won=[s for s in common if ours[s] and not theirs[s]],
        lost=[s for s in common if theirs[s] and not ours[s]],
    )
