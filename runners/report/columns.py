"""arms.csv and arms.parquet: every number of a report, one row an arm."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skipstep.whole_files import replacing

from ..studies.comparisons import Arm
from . import embodied as report_embodied
from . import stages as report_stages

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def rows_of(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """All arms with the same columns."""
    further = report_embodied.further_of(arms)
    rows = [row(arm) | report_embodied.columns(arm, further) for arm in arms]
    if report_stages.table(arms):
        rows = [found | report_stages.columns(arm) for found, arm in zip(rows, arms, strict=True)]
    return rows


def row(arm: Arm) -> dict[str, Any]:
    """An arm's numbers, flat; what it has not got is None."""
    versus, latency = arm.versus, arm.latency
    paired = versus.success if versus else None
    score = versus.score if versus else None
    low, high = arm.interval
    bounds = arm.speed.interval if arm.speed else (None, None)
    return {
        "number": arm.number,
        "run": arm.run.name,
        "stratum": arm.stratum,
        "label": arm.label,
        "cache": arm.run.result["cache"],
        "quant": arm.run.result["quant"],
        "baseline": versus.baseline.name if versus else None,
        "n_episodes": arm.n,
        "n_errors": arm.run.n_errors,
        "n_success": arm.n_success,
        "success_rate": arm.rate,
        "success_low": low,
        "success_high": high,
        "n_paired": paired.n if paired else None,
        "wins": paired.wins if paired else None,
        "losses": paired.losses if paired else None,
        "difference": paired.difference if paired else None,
        "difference_low": paired.difference_interval[0] if paired else None,
        "difference_high": paired.difference_interval[1] if paired else None,
        "p_mcnemar": paired.p_value if paired else None,
        "p_holm": versus.p_holm if versus else None,
        "margin": versus.noninferiority.margin if versus else None,
        "loss_detected": versus.loss_detected if versus else None,
        "noninferior": versus.noninferiority.shown if versus else None,
        "p_noninferiority": versus.noninferiority.p_value if versus else None,
        "power": versus.power if versus else None,
        "n_needed": versus.needed if versus else None,
        "mean_score": arm.mean_score,
        "score_difference": score.difference if score else None,
        "score_difference_low": score.interval[0] if score and score.interval else None,
        "score_difference_high": score.interval[1] if score and score.interval else None,
        "latency_p50_ms": latency.p50_ms if latency else None,
        "latency_p50_low_ms": latency.p50_interval[0] if latency else None,
        "latency_p50_high_ms": latency.p50_interval[1] if latency else None,
        "latency_p95_ms": latency.p95_ms if latency else None,
        "latency_p99_ms": latency.p99_ms if latency else None,
        "plain_p50_ms": latency.plain_p50_ms if latency else None,
        "times_as_fast": arm.times_as_fast,
        "times_as_fast_low": bounds[0],
        "times_as_fast_high": bounds[1],
        "engine_ratio": latency.engine_ratio if latency else None,
        "times_flops_allow": arm.bound,
        "flops": arm.flops.query,
        "flops_share": arm.flops.share,
        "flops_executed_share": arm.flops.executed_share,
        "fingerprint": arm.run.result["fingerprint"],
    }


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """With a header; empty where there is no arm."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    """A text that a spreadsheet would take for a formula gets the apostrophe that stops it."""
    formula = isinstance(value, str) and value.startswith(FORMULA)
    return f"'{value}" if formula else value


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    """The same rows, typed; needs pyarrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)
