"""The rows as one Markdown table and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

HEADER = (
    *("sampler", "S", "arm", "error", "95 %", "p95", "flips", "nearest"),
    *("steps", "FLOPs", "ms", "times as fast", "settings"),
)
NOTE = (
    "error: mean over queries of the RMS distance of executed actions from the plain policy's by "
    "the same noise, normalised\nunits, with its 95 % bootstrap interval; p95 over queries. flips: "
    "share of queries whose error is at least the mean\ndistance of the plain policy's own actions "
    "by other noises. nearest: mean distance to the nearest of the plain policy's\nactions by "
    "other noises, which does not depend on how a sampler uses its noise: judge ddim by it. "
    "steps: equal FLOPs of a\ncache of whole steps. FLOPs: share of the plain policy's with the "
    "row's sampler, not a speed-up.\nms: median at batch 1; times as fast: of the plain policy in "
    "the same rounds."
)


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without lists, for a spreadsheet."""
    latency = row.get("latency", {})
    low, high = row["error_interval"]
    return {
        "sampler": row["sampler"],
        "steps": row["steps"],
        "arm": row["arm"],
        "family": row["family"],
        "settings": row["settings"],
        **{k: row[k] for k in ("error_mean", "error_p50", "error_p95", "flips", "relative")},
        "error_low": low,
        "error_high": high,
        "nearest": row["nearest"],
        "choosing_error": row.get("choosing_error"),
        "equivalent_steps": row.get("equivalent_steps"),
        "flops_share": row["flops_share"],
        "latency_p50_ms": latency.get("p50_ms"),
        "times_as_fast": latency.get("times_as_fast"),
    }


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(flat(rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat(row) for row in rows)
    return text.getvalue()


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """One table, columns padded so that it reads as text too."""
    lines = [HEADER, *(_cells(flat(row)) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    rule = tuple("-" * width for width in widths)
    said = [
        "| " + " | ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)) + " |"
        for line in (lines[0], rule, *lines[1:])
    ]
    return "\n".join([*said, "", NOTE, ""])


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    def number(key: str, form: str) -> str:
        return "" if row[key] is None else format(row[key], form)

    return (
        row["sampler"],
        number("steps", "d"),
        row["arm"],
        number("error_mean", ".4f"),
        f"{row['error_low']:.4f}-{row['error_high']:.4f}",
        number("error_p95", ".4f"),
        number("flips", ".0%"),
        number("nearest", ".4f"),
        number("equivalent_steps", ".1f"),
        number("flops_share", ".1%"),
        number("latency_p50_ms", ".1f"),
        number("times_as_fast", ".2f"),
        row["settings"],
    )
