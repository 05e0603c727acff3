"""The tables of docs/results/frontier.md, from the study's runs and the timing of its arms.

    python -m benchmarks.frontier.page                  # all of it
    python -m benchmarks.frontier.page --best kitchen   # the README's few rows

Every number comes from results/: the records of the runs that studies/frontier.yaml lists, and
studies/frontier/latency.json. No torch, no simulator; `make docs-check` compares what is printed
with the pages.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runners.formatting import NOTHING, changes, p_value, rates, share, speed, yes_no
from runners.metrics import Paired, paired, wilson
from runners.statistics import noninferiority
from runners.store.published import STUDIES, Published, published
from runners.store.reading import Run, is_baseline
from runners.studies.arms import timing_label
from runners.studies.cost import read_flops
from runners.studies.embodied import differences, means

from .measured import RESULTS, STUDY, averaged, measured, spread

MARGIN = 0.03
METRICS = {  # of an episode's `embodied` -> heading, digits
    "time_to_success_s": ("time to success, s", 2),
    "joint_path_length_rad": ("joint path, rad", 2),
    "path_length_px": ("path, px", 0),
    "mean_squared_joint_jerk_rad2_s6": ("squared jerk, rad2/s6", 0),
    "mean_chunk_jump": ("jump between chunks", 3),
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
    def n_success(self) -> int:
        return sum(self.run.success.values())

    @property
    def times(self) -> float:
        """Times as fast as the reference implementation in CPU time, 0 where it was not timed.

        On one thread it is wall time without what other processes take.
        """
        return float(self.timed["cpu_ratio"]) if self.timed else 0.0

    @property
    def speed(self) -> str:
        if not self.timed:
            return NOTHING
        return speed(self.times, self.timed["cpu_ratio_interval"])


def kept_runs() -> list[Published]:
    """All runs of the study."""
    return published(RESULTS / STUDIES / f"{STUDY}.yaml")


def calls(run: Run) -> str:
    """Network calls of a query; of a warm start the mean over full and warm queries."""
    warm = run.result.get("stats", {}).get("warm")
    return f"{warm['calls']:.2f}" if warm else str(run.config["sampler"]["steps"])


def task_of(kept: Published) -> str:
    return kept.name.partition("_")[0]


def rows_of(task: str, timings: Mapping[str, Any]) -> list[Row]:
    """All whole runs of a task, the fastest first, the plain policy among them."""
    runs = [kept.run() for kept in kept_runs() if task_of(kept) == task]
    runs = [run for run in runs if run.whole]
    plain = next((run for run in runs if is_baseline(run)), None)
    rows = []
    for run in runs:
        versus = paired(run.success, plain.success) if plain and run is not plain else None
        label, cost = timing_label(run.config), read_flops(run, plain)
        rows.append(Row(run, label, versus, cost.share, timings.get(task, {}).get(label)))
    return sorted(rows, key=lambda row: (-row.times, row.share or 0, row.label))


HEADER = (
    "| arm | network calls | FLOPs | times as fast | success | seeds | against unaccelerated "
    f"| wins / losses | p | non-inferior at {MARGIN:.0%} |"
)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Success against measured time."""
    yield HEADER
    yield "|---" * 10 + "|"
    for row in rows:
        judged = [NOTHING] * 4
        if v := row.versus:
            judged = [
                changes(v.difference, v.difference_interval),
                f"{v.wins} / {v.losses}",
                p_value(v.p_value),
                yes_no(noninferiority(v.wins, v.losses, v.n, MARGIN).shown),
            ]
        cells = [
            row.label,
            calls(row.run),
            share(row.share),
            row.speed,
            rates(row.n_success / max(row.n, 1), wilson(row.n_success, row.n)),
            str(row.n),
            *judged,
        ]
        yield f"| {' | '.join(cells)} |"


def embodied(rows: Sequence[Row]) -> Iterator[str]:
    """How the robot moved: means of the plain policy, mean paired differences of the others."""
    plain = next((row.run for row in rows if is_baseline(row.run)), None)
    if plain is None:
        return
    own = means(plain.ok.values())
    shown = {name: how for name, how in METRICS.items() if name in own}
    yield f"| arm | {' | '.join(heading for heading, _ in shown.values())} |"
    yield "|---" * (len(shown) + 1) + "|"
    for row in rows:
        gaps = {} if row.run is plain else differences(row.run.ok.values(), plain.ok.values())
        cells = []
        for name, (_, digits) in shown.items():
            if row.run is plain:
                cells.append(_number(own[name].mean, own[name].interval, digits, ""))
            elif name in gaps:
                cells.append(_number(gaps[name].difference, gaps[name].interval, digits, "+"))
            else:
                cells.append(NOTHING)
        yield f"| {row.label} | {' | '.join(cells)} |"


def _number(value: float, bounds: tuple[float, float] | None, digits: int, sign: str) -> str:
    form = f"{sign}.{digits}f"
    interval = f" [{bounds[0]:{form}}, {bounds[1]:{form}}]" if bounds else ""
    return f"{value:{form}}{interval}"


def machine(timings: Mapping[str, Any], task: str) -> str:
    """Where and how the arms were timed."""
    if task not in timings:
        return "Not timed yet."
    found = timings[task]["machine"]
    before, after = found["load"]
    return (
        f"Timed in one process, {found['rounds']} rounds of every arm in turn, batch 1, "
        f"{found['threads']} thread, {found['cpu']}, load {before:.1f} to {after:.1f}; ratios of "
        "CPU times."
    )


def page() -> str:
    """Both tables of every task."""
    timings, lines = measured("latency.json"), list[str]()
    for task in sorted({task_of(kept) for kept in kept_runs()}):
        rows = rows_of(task, timings)
        lines += [f"### {task}", "", machine(timings, task), "", *table(rows), ""]
        lines += ["How the robot moved, against the unaccelerated policy on the same seeds:", ""]
        lines += [*embodied(rows), "", *averaged(task), *spread(task)]
    return "\n".join(lines).strip()


def best(task: str, labels: Sequence[str], timed: str | None = None) -> str:
    """These rows of a task, with the times of a file, which is then said."""
    timings = measured(timed or "latency.json")
    rows = {row.label: row for row in rows_of(task, timings)}
    said = [machine(timings, task), ""] if timed else []
    return "\n".join([*said, *table([rows[label] for label in labels if label in rows])])


def main() -> int:
    """Print what is asked for."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--best", metavar="TASK", help="only some rows of a task")
    words.add_argument("--arms", nargs="*", default=[], help="their labels")
    words.add_argument("--timed", help="the file of their times, with --best")
    options = words.parse_args()
    print(best(options.best, options.arms, options.timed) if options.best else page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
