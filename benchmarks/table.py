"""The printed table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEADER = ("", "p10", "p50", "p90 ms", "times as fast", "FLOPs", "live", "max |d|", "")

BY_CPU = {"wall": "", "cpu": "by CPU time"}


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    """All rows as one table; an arm that could not run says why."""
    blocks = [_cells(row) for row in rows]
    widths = [
        max(len(line[i]) for block in blocks for line in [HEADER, *block] if len(line) > 2)
        for i in range(len(HEADER))
    ]
    lines = []
    for row, block in zip(rows, blocks, strict=True):
        lines += ["", title(row["setting"]), _join(HEADER, widths)]
        for cells in block:
            if len(cells) == 2:
                lines.append(f"{cells[0]:<{widths[0]}}  not available: {cells[1]}")
            else:
                lines.append(_join(cells, widths))
        lines += _costs(row)
    lines += [
        "",
        "times as fast: median of the baseline over median of the arm, 95 % bootstrap interval "
        "over rounds; of CPU time where",
        "the note says so, which is where wall time disagrees with it by more than 20 %: other "
        "processes took their turns.",
        "FLOPs: share of the plain policy's, as papers count it; live: what the arm really "
        "computes. Neither is a speed-up.",
        "max |d|: largest difference of an action from the baseline's, normalised units (range -1 "
        "to 1).",
    ]
    return "\n".join(lines)


def title(setting: Mapping[str, Any]) -> str:
    return (
        f"batch {setting['batch']}, width {setting['width']} ({setting['n_layer']} layers, "
        f"{setting['n_head']} heads), threads {setting['threads']}, {setting['sampler']}, "
        f"S = {setting['steps']}, {setting['rounds']} rounds, against {setting['baseline']}, on "
        f"{setting['cpu']}"
    )


def _cells(row: Mapping[str, Any]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, arm in row["arms"].items():
        if "unavailable" in arm:
            found.append((name, arm["unavailable"]))
            continue
        low, high = arm["times_as_fast_interval"]
        found.append(
            (
                name,
                *(f"{arm[f'p{p}_ms']:.1f}" for p in (10, 50, 90)),
                f"{arm['times_as_fast']:.2f} [{low:.2f}, {high:.2f}]",
                f"{arm['flops_share']:.1%}",
                f"{arm['live_flops_share']:.1%}",
                f"{arm['deviation']:.1e}",
                "; ".join(filter(None, [BY_CPU[arm["clock"]], arm["note"]])),
            )
        )
    return found


def _join(cells: Sequence[str], widths: Sequence[int]) -> str:
    middle = [f"{cell:>{width}}" for cell, width in zip(cells[1:-1], widths[1:-1], strict=True)]
    return "  ".join([f"{cells[0]:<{widths[0]}}", *middle, cells[-1]]).rstrip()


def _costs(row: Mapping[str, Any]) -> list[str]:
    step, program = row["step"], row["program"]
    lines = [f"fully cached step {step['cached_us']:.0f} us"]
    if "computed_ms" in step:
        lines[0] = (
            f"computed step {step['computed_ms']:.3f} ms = {step['computed_over_linears']:.2f} "
            f"times its packed linears alone ({step['linears_ms']:.3f} ms); {lines[0]}; query "
            f"without cache = {step['query_over_linears']:.2f} times its linears"
        )
    if program:
        mb = {k: program[k] / 2**20 for k in ("bytes", "weight_bytes", "rss_bytes")}
        lines.append(
            f"program {mb['bytes']:.1f} MB beside {mb['weight_bytes']:.1f} MB of weights (process "
            f"grew by {mb['rss_bytes']:.1f} MB), built in {program['build_s']:.2f} s"
        )
    return lines
