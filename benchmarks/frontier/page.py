"""The tables of docs/results/frontier.md, from the study's runs and the timing of its arms.

    python -m benchmarks.frontier.page            # prints what stands between the page's marks
    python -m benchmarks.frontier.page --write    # and writes it there

Every number comes from docs/results/frontier/: the runs' records and latency.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runners.cost import read_flops
from runners.labels import quant_label, sampler_label
from runners.metrics import Paired, paired, wilson
from runners.report_words import share
from runners.run_folder import Run, read_run
from runners.statistics import noninferiority

from .play import KEPT

PAGE = Path("docs/results/frontier.md")
BEGIN, END = "<!-- generated: python -m benchmarks.frontier.page -->", "<!-- end -->"
MARGIN = 0.03
METRICS = {  # of episodes.jsonl -> heading, digits
    "time_to_success_s": ("time to success, s", 1),
    "joint_path_length_rad": ("joint path, rad", 1),
    "mean_squared_joint_jerk_rad2_s6": ("jerk, rad2/s6", 0),
    "mean_chunk_jump": ("chunk jump", 3),
    "energy_j": ("energy, J", 0),
}


@dataclass(frozen=True)
class Row:
    """An arm: its run, what it is called, and how it compares with the plain policy."""

    run: Run
    label: str
    versus: Paired | None
    share: float | None
    timed: Mapping[str, Any] | None

    @property
    def n(self) -> int:
        return len(self.run.ok)

    @property
    def successes(self) -> int:
        return sum(self.run.success.values())


def label_of(config: Mapping[str, Any]) -> str:
    """Sampler, cache and quantisation in few words."""
    cache, quant = config["cache"], quant_label(config["quant"])
    cached = "" if cache["name"] == "none" else f"{cache['name']} S = {cache['steps']}"
    return ", ".join(w for w in (sampler_label(config["sampler"]), cached, quant) if w)


def is_plain(run: Run) -> bool:
    """Whether nothing was made cheaper: the checkpoint's own sampler, no cache, no quantisation."""
    return bool(run.result) and run.result["baseline"] is None


def rows_of(task: str, timings: Mapping[str, Any]) -> list[Row]:
    """All whole runs of a task, the fastest first, the plain policy among them."""
    runs = [read_run(path.parent) for path in sorted(KEPT.glob(f"{task}_*/result.json"))]
    runs = [run for run in runs if run.whole]
    plain = next((run for run in runs if is_plain(run)), None)
    rows = []
    for run in runs:
        versus = paired(run.success, plain.success) if plain and run is not plain else None
        label = label_of(run.config)
        timed = timings.get(task, {}).get(label)
        baseline = None if run is plain else plain
        rows.append(Row(run, label, versus, read_flops(run, baseline).share, timed))
    return sorted(rows, key=lambda row: (-times(row), row.label))


def times(row: Row) -> float:
    """Times as fast as the reference implementation, 0 where it was not timed."""
    return float(row.timed["times_as_fast"]) if row.timed else 0.0


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Success against measured time."""
    yield (
        "| arm | calls | FLOPs | times as fast | success | seeds | against unaccelerated "
        "| wins / losses | p |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        low, high = wilson(row.successes, row.n)
        versus = row.versus
        compared = [
            f"{versus.difference:+.3f} [{versus.difference_interval[0]:+.3f}, "
            f"{versus.difference_interval[1]:+.3f}]"
            if versus
            else "",
            f"{versus.wins} / {versus.losses}" if versus else "",
            f"{versus.p_value:.2g}" if versus else "",
        ]
        cells = [
            row.label,
            str(row.run.config["sampler"]["steps"]),
            share(row.share),
            speed(row),
            f"{row.successes / max(row.n, 1):.3f} [{low:.3f}, {high:.3f}]",
            str(row.n),
            *compared,
        ]
        yield f"| {' | '.join(cells)} |"


def speed(row: Row) -> str:
    if not row.timed:
        return "-"
    low, high = row.timed["times_as_fast_interval"]
    return f"{times(row):.3g} [{low:.3g}, {high:.3g}]"


def embodied(rows: Sequence[Row]) -> Iterator[str]:
    """How the robot moved: mean paired differences from the plain policy, with 95 % intervals."""
    plain = next((row.run for row in rows if is_plain(row.run)), None)
    if plain is None:
        return
    yield f"| arm | {' | '.join(heading for heading, _ in METRICS.values())} |"
    yield "|---" * (len(METRICS) + 1) + "|"
    for row in rows:
        cells = [difference(row.run, plain, name, digits) for name, (_, digits) in METRICS.items()]
        yield f"| {row.label} | {' | '.join(cells)} |"


def difference(run: Run, plain: Run, name: str, digits: int) -> str:
    """Mean of a metric for the plain policy, mean paired difference for another."""

    def values(of: Run) -> dict[int, float]:
        found = ((s, (e.get("embodied") or {}).get(name)) for s, e in of.ok.items())
        return {s: float(v) for s, v in found if v is not None}

    ours, theirs = values(run), values(plain)
    if run is plain:
        return f"{np.mean(list(theirs.values())):.{digits}f}" if theirs else "-"
    common = sorted(ours.keys() & theirs.keys())
    if len(common) < 2:
        return "-"
    gaps = np.array([ours[s] - theirs[s] for s in common])
    half = 1.96 * gaps.std(ddof=1) / np.sqrt(len(gaps))
    return f"{gaps.mean():+.{digits}f} ± {half:.{digits}f}"


def verdicts(rows: Sequence[Row]) -> Iterator[str]:
    """Which arms are shown to lose less than the margin."""
    for row in rows:
        if row.versus is None:
            continue
        v = row.versus
        found = noninferiority(v.wins, v.losses, v.n, MARGIN)
        if found.shown:
            yield f"- {row.label}: {speed(row)} times as fast, {v.n} seeds"


def page() -> str:
    """What stands between the marks."""
    path = KEPT / "latency.json"
    timings = json.loads(path.read_text()) if path.exists() else {}
    lines: list[str] = []
    for task in sorted({p.name.split("_")[0] for p in KEPT.iterdir() if p.is_dir()}):
        rows = rows_of(task, timings)
        lines += ["", f"### {task}", "", *table(rows), "", "How the robot moved:", ""]
        lines += [*embodied(rows), "", f"Shown to lose less than {MARGIN:.0%} of success:", ""]
        lines += [*verdicts(rows)]
    return "\n".join(lines).strip() + "\n"


def main() -> int:
    """Print the tables; with --write, put them into the page."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--write", action="store_true")
    text = page()
    if words.parse_args().write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
