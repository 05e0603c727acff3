"""The tables of a report, as texts; the page and the Markdown show the same ones."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from omegaconf import OmegaConf

from .findings import Arm, Method
from .metrics import wilson
from .report_charts import named
from .report_words import counted, interval, ms, p_value, simulated_words
from .run_folder import FINISHED, Run
from .statistics import MIN_DIFFERING, WORSE
from .study import Study

OVERRIDES = ".hydra/overrides.yaml"


@dataclass(frozen=True)
class Table:
    """header[0] names the rows; a row is (its name, its cells)."""

    header: list[str]
    rows: list[tuple[str, list[str]]]
    caption: str = ""


def success(arms: Sequence[Arm], margin: float) -> Table:
    """Success rates, and each arm against the unaccelerated one."""
    header = ["arm", "success", "episodes", "difference", "wins / losses", "p", "p, Holm"]
    header.append(f"non-inferior, {100 * margin:g} points")
    rows = []
    for arm in arms:
        cells = [f"{arm.rate:.2f} {interval(arm.interval)}", f"{arm.n_success} of {arm.n}"]
        if versus := arm.versus:
            paired = versus.success
            cells += [
                f"{paired.difference:+.2f} {interval(paired.difference_interval, '+.2f')}",
                f"{paired.wins} / {paired.losses}",
                p_value(paired.p_value),
                p_value(versus.p_holm),
                versus.noninferiority.verdict,
            ]
        else:
            cells += ["the baseline" if arm.is_baseline else "no baseline", "", "", "", ""]
        rows.append((named(arm), cells))
    if any(arm.run.n_errors for arm in arms):
        header.append("errors")
        for arm, (_, cells) in zip(arms, rows, strict=True):
            cells.append(str(arm.run.n_errors))
    return Table(
        header,
        rows,
        "Intervals: Wilson, and Tango for the paired difference. p: exact McNemar, and adjusted "
        "over the study's comparisons (Holm). Non-inferior: the interval lies above minus the "
        "margin, each arm by itself at a one-sided 2.5 %; worse: it lies below 0; not shown is no "
        "evidence of a loss.",
    )


def seeds_needed(arms: Sequence[Arm], margin: float) -> Table:
    """What these seeds could show, and how many it takes."""
    rows = []
    for arm in arms:
        versus = arm.versus
        if versus and versus.noninferiority.verdict != WORSE:
            n = versus.success.n
            discordant = versus.success.wins + versus.success.losses
            power = f"{versus.power:.0%}"
            rows.append((named(arm), [str(n), f"{discordant / n:.0%}", power, str(versus.needed)]))
    return Table(
        ["arm", "seeds", "discordant", "power here", "seeds for 80 %"],
        rows,
        "Power here: the chance that these seeds show non-inferiority at "
        f"{100 * margin:g} points where the arms are truly equal, at the discordance seen. Seeds "
        "for 80 %: to find a loss of that size (McNemar; Connor 1987). Arms that are worse are "
        "decided.",
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
        cells = [
            f"{k / n:.2f} {interval(wilson(k, n))}" if n else "" for k, n in filter(None, shares)
        ]
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
        cells = ["not measured", *[""] * 4]
        if latency := arm.latency:
            low, high = latency.ratio_interval
            cells = [
                f"{ms(latency.p50_ms)} [{', '.join(map(ms, latency.p50_interval))}]",
                ms(latency.p95_ms),
                ms(latency.p99_ms),
                ms(latency.plain_p50_ms),
                f"{latency.ratio:.2f}x [{low:.2f}, {high:.2f}]",
            ]
        rows.append((named(arm), [*cells, f"{arm.bound:.2f}x", f"{arm.share:.1%}"]))
    header = ["arm", "p50, ms", "p95", "p99", "plain p50", "speed-up", "FLOPs allow", "FLOPs"]
    return Table(
        header,
        rows,
        "Batch 1. Plain: the unaccelerated policy with the arm's sampler, timed in turn in the "
        "same run; the speed-up is over it, with a bootstrap interval of this measurement alone, "
        "and so is what the FLOPs allow. FLOPs: of the baseline's.",
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
                f"{m.pooled.difference:+.2f} {interval(m.pooled.difference_interval, '+.2f')}",
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


def jobs(study: Study) -> Table:
    """What did not finish, and which methods have gaps."""
    rows = []
    for run in study.runs:
        done = sum(seed in run.episodes for seed in run.seeds)
        if not run.whole:
            state = [run.status, f"{done} of {len(run.seeds)}" if run.config else ""]
            rows.append((run.name, [*state, run.error, command(run)]))
        elif run.n_errors:
            errors = [f"seed {e['seed']}: {e['error']}" for e in run.result["errors"]]
            state = [f"errors: {run.n_errors}", f"{done} of {len(run.seeds)}"]
            rows.append((run.name, [*state, "; ".join(errors), command(run)]))
        elif run.status != FINISHED:  # its result is whole; what came after it was not
            rows.append((run.name, [run.status, f"{done} of {len(run.seeds)}", run.error, ""]))
    rows += [
        (f"on {stratum}", ["not in the study", "", "", "; ".join(absent)])
        for stratum in dict.fromkeys(study.strata.values())
        if (absent := _absent(study, stratum))
    ]
    rows += [
        (run.name, ["no baseline", "", "", str((run.result["baseline"] or {}).get("command", ""))])
        for run in study.whole
        if run.result["baseline"] and study.baseline(run) is None
    ]
    return Table(
        ["job", "state", "episodes", "error", "what, or how to go on"],
        rows,
        "The same command goes on where a run stopped. A run with missing seeds enters no other "
        "table: the first episodes to end are the successful ones.",
    )


def _absent(study: Study, stratum: str) -> list[str]:
    """Methods that other strata have."""
    here = {study.labels[name] for name, where in study.strata.items() if where == stratum}
    return [label for label in dict.fromkeys(study.labels.values()) if label not in here]


def commands(study: Study) -> list[str]:
    """A line per run, as it was typed."""
    found = (command(run) for run in study.runs)
    return list(dict.fromkeys(line for line in found if line))


def command(run: Run) -> str:
    """From its result, or from what Hydra noted before the run began."""
    if run.result:
        return str(run.result["command"])
    noted = run.folder / OVERRIDES
    words: Any = OmegaConf.to_container(OmegaConf.load(noted)) if noted.exists() else []
    return shlex.join(["python", "run.py", *words]) if words else ""


def versions(arms: Sequence[Arm]) -> Table:
    """Of the packages that the runs had; where they differ, which arm had what."""
    found: dict[str, dict[str, list[str]]] = {}
    for arm in arms:
        for name, version in arm.run.result["versions"].items():
            found.setdefault(name, {}).setdefault(version, []).append(str(arm.number))
    return Table(
        ["of", "version"],
        [
            (
                name,
                [
                    "; ".join(
                        v if len(had) == 1 else f"{v} (arms {', '.join(a)})" for v, a in had.items()
                    )
                ],
            )
            for name, had in found.items()
        ],
    )
