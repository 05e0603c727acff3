"""The tables of a report, as texts; the page and the Markdown show the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from ..formatting import (
    NOTHING,
    changes,
    counted,
    interval,
    ms,
    p_value,
    rates,
    share,
    simulated_words,
    speed,
    yes_no,
)
from ..metrics import wilson
from ..statistics import ALPHA, MIN_DIFFERING
from ..studies.comparisons import Arm, Method
from .charts import named

_UNKNOWN = ", or the FLOPs of the policy's family are not known."


@dataclass(frozen=True)
class Table:
    """header[0] names the rows; a row is (its name, its cells)."""

    header: list[str]
    rows: list[tuple[str, list[str]]]
    caption: str = ""


def success(arms: Sequence[Arm], margin: float) -> Table:
    """Success rates, and each arm against the unaccelerated one."""
    header = ["arm", "success", "episodes", "difference", "wins / losses", "p", "p, Holm"]
    header += ["loss detected (Holm)", f"non-inferior at {100 * margin:g} points"]
    rows = []
    for arm in arms:
        cells = [rates(arm.rate, arm.interval), f"{arm.n_success} of {arm.n}"]
        if versus := arm.versus:
            paired = versus.success
            cells += [
                changes(paired.difference, paired.difference_interval),
                f"{paired.wins} / {paired.losses}",
                p_value(paired.p_value),
                p_value(versus.p_holm),
                yes_no(versus.loss_detected),
                yes_no(versus.noninferiority.shown),
            ]
        else:
            cells += ["the baseline" if arm.is_baseline else "no baseline", *[""] * 5]
        rows.append((named(arm), cells))
    if any(arm.run.n_errors for arm in arms):
        header.append("errors")
        for arm, (_, cells) in zip(arms, rows, strict=True):
            cells.append(str(arm.run.n_errors))
    return Table(
        header,
        rows,
        "Intervals: Wilson, and Tango for the paired difference. p: exact McNemar, and adjusted "
        f"over the study's comparisons (Holm). Loss detected: fewer successes, with the adjusted p "
        f"below {ALPHA:g}. Non-inferior: the interval lies above minus the margin, each arm by "
        "itself at a one-sided 2.5 %. An arm with neither is undecided: a no is no evidence of the "
        "contrary.",
    )


def seeds_needed(arms: Sequence[Arm], margin: float) -> Table:
    """What these seeds could show, and how many it takes."""
    rows = []
    for arm in arms:
        versus = arm.versus
        if versus and not versus.loss_detected:
            n = versus.success.n
            discordant = versus.success.wins + versus.success.losses
            power = f"{versus.power:.0%}"
            rows.append((named(arm), [str(n), f"{discordant / n:.0%}", power, str(versus.needed)]))
    return Table(
        ["arm", "seeds", "discordant", "power here", "seeds for 80 %"],
        rows,
        "Power here: the chance that these seeds show non-inferiority at "
        f"{100 * margin:g} points where the arms are truly equal, at the discordance seen. Seeds "
        "for 80 %: how many give that chance (exact, summed over all outcomes of the verdict's own "
        "test). Where an arm is truly worse it takes more. Arms with a detected loss are left out.",
    )


def details(arms: Sequence[Arm]) -> Table:
    """Mean score, and the task's own shares."""
    reached = (name for arm in arms for name, (k, _) in arm.metrics.items() if k)
    names = sorted(set(reached))
    rows = []
    for arm in arms:
        change = ""
        if arm.versus:
            score = arm.versus.score
            change = f"{score.difference:+.3f}"
            change += f" {interval(score.interval, '+.3f')}" if score.interval else ""
        shares = [arm.metrics.get(name) for name in names]
        cells = [rates(k / n, wilson(k, n)) if n else "" for k, n in filter(None, shares)]
        rows.append((named(arm), [f"{arm.mean_score:.3f}", change, *cells]))
    return Table(
        ["arm", "mean score", "difference", *names],
        rows,
        "The difference of the mean score is paired on seeds, with a bootstrap interval where at "
        f"least {MIN_DIFFERING} seeds differ. p_k: share of episodes with at least k tasks.",
    )


def cost(arms: Sequence[Arm]) -> Table:
    """Measured latency next to counted FLOPs."""
    rows = []
    for arm in arms:
        fast = speed(arm.speed.times, arm.speed.interval) if arm.speed else "not measured"
        cells = [fast, *[""] * 5]
        if latency := arm.latency:
            cells = [
                speed(latency.ratio, latency.ratio_interval),
                speed(latency.engine_ratio),
                f"{ms(latency.p50_ms)} [{', '.join(map(ms, latency.p50_interval))}]",
                ms(latency.p95_ms),
                ms(latency.p99_ms),
                ms(latency.plain_p50_ms) if latency.plain_p50_ms else NOTHING,
            ]
        flops = [share(arm.flops.share), share(arm.flops.executed_share)]
        rows.append((named(arm), [*cells, speed(arm.bound), *flops]))
    header = ["arm", "times as fast", "as this engine without", "p50, ms", "p95", "p99"]
    header += ["plain p50", "FLOPs allow", "FLOPs", "as run by this engine"]
    return Table(
        header,
        rows,
        "Batch 1. Plain: the checkpoint's unaccelerated policy with its own sampler, in stock "
        "modules, timed in turn in the same run. Times as fast: as that policy, with a bootstrap "
        "interval of this measurement alone; beside it, as this engine without the acceleration. "
        "FLOPs: of the cells that the plan computes, all tokens, over those of the plain policy; "
        "what they allow is its inverse; as run by this engine: without the tokens that no "
        "executed action depends on. A dash: an older run does not tell"
        + (_UNKNOWN if any(arm.flops.query is None for arm in arms) else "."),
    )


def quantisations(arms: Sequence[Arm]) -> Table:
    """What was quantised, how, and what of it is simulated; arms without are left out."""
    rows = []
    for arm in arms:
        found = arm.run.result.get("quantisation")
        if not found:
            continue
        layers = found["layers"]
        errors = [layer["error"] for layer in layers]
        cells = [
            f"W{found['weight_bits']}A{found['activation_bits']}",
            counted([layer["method"] for layer in layers]),
            f"{min(errors):.2%} to {max(errors):.2%}",
            *(f"{mean(layer[f'crest_{w}'] for layer in layers):.1f}" for w in ("before", "after")),
            f"{found['bytes_after'] / found['bytes_before']:.2f}x",
            f"{found['share']:.0%}",
            counted([layer["kernel"] for layer in layers]),
            simulated_words(layers) or "nothing",
            "; ".join(found["warnings"]),
        ]
        rows.append((named(arm), cells))
    header = ["arm", "bits", "layers by method", "predicted error", "crest before", "after"]
    header += ["bytes", "of multiply-adds", "kernels", "simulated", "warnings"]
    return Table(
        header,
        rows,
        "Predicted error: of a layer's outputs on the calibration's tokens, relative; least and "
        "most of all layers. Crest: max / rms of a layer's inputs before and after the transform, "
        "mean over tokens and layers; about 3 without outliers. Bytes: of the quantised layers. "
        "Every layer is in the run's result.json.",
    )


def methods(found: Sequence[Method]) -> Table:
    """Methods over tasks, checkpoints and noise seeds."""
    rows = [
        (
            m.label,
            [
                "; ".join(m.strata),
                changes(m.pooled.difference, m.pooled.difference_interval),
                f"{m.pooled.wins} / {m.pooled.losses}",
                str(m.pooled.n),
                p_value(m.pooled.p_value),
                p_value(m.p_holm),
            ],
        )
        for m in found
    ]
    return Table(
        ["method", "over", "mean difference", "wins / losses", "seeds", "p", "p, Holm"],
        rows,
        "Each stratum counts the same, whatever its episodes; interval from the strata's Tango "
        "intervals (MOVER), taking strata as independent. p: exact McNemar of all discordant "
        "seeds.",
    )
