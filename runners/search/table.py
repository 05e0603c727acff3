"""What a search found, as lines for a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..formatting import underlined

FOUND = "search.json"


def render_search(result: Mapping[str, Any], folder: Path) -> str:
    """The finalists as lines of text, and the command that plays them."""
    title = f"{result['task']}  search  {result['n_candidates']} windows"
    lines = ["  start interval first blocks  ratio  FLOPs   error    p95  success  latency"]
    for index, f in enumerate(result["finalists"]):
        said = f"{f['success']['success_rate'] or 0:.2f}" if "success" in f else ""
        ms = (
            f"{f['latency']['p50_ms']:.1f} ms ({f['latency']['ratio']:.2f}x)"
            if f["latency"]
            else ""
        )
        lines.append(
            f"{'*' if f['pareto'] else ' '} {f['start']:5} {f['interval']:8} {f['first_block']:5} "
            f"{'all' if f['n_blocks'] is None else f['n_blocks']:>6}  {f['ratio']:5.2f}  "
            f"{f['flops_share']:5.1%}  {f['error_mean']:.4f} {f['error_p95']:.4f}  {said:>7}  {ms}"
            f"{'  best' if index == result['best'] else ''}".rstrip()
        )
    if result["plain_success"]:
        plain = result["plain_success"]
        lines.append(
            f"  success of {plain['n_episodes']} without: {plain['success_rate'] or 0:.2f}"
        )
    plans = ",".join(str(folder / f["plan"]) for f in result["finalists"] if f["pareto"])
    play = shlex.join(["python", "run.py", "-m", *result["words"], "cache=plan"])
    return underlined(
        title,
        [
            *lines,
            "* on the Pareto front of FLOPs and action error (RMS, normalised units)",
            f"success  {play} cache.path={plans}",
            f"files    {folder / FOUND}",
        ],
    )
