"""What a sweep ends with: one line per job, and the tracebacks of those that failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from .errors import UserError
from .findings import Arm, ReportConfig, findings
from .report_words import interval, ms
from .run_folder import FINISHED, Run, read_run
from .store import SHARDS, TRACEBACK
from .study import read_study

HEADER = ("job", "success", "difference", "latency", "state")


def summary(study_folder: Path, jobs: Sequence[str]) -> tuple[str, bool]:
    """A table of these jobs of a study, and whether all of them finished.

    Differences are to the unaccelerated arm of the study, which may be of an earlier sweep.
    """
    runs = {name: read_run(study_folder / name) for name in dict.fromkeys(jobs)}
    names: dict[str, str] = {}
    arms: dict[str, Arm] = {}
    with suppress(UserError):  # of a study of other runners' jobs, which have no table
        study = read_study(study_folder)
        names = {r.name: f"{study.strata[r.name]}: {study.labels[r.name]}" for r in study.runs}
        arms = {arm.run.name: arm for arm in findings(study, ReportConfig())}
    rows = [HEADER, *(_row(job, run, names, arms) for job, run in runs.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    failed = [run for run in runs.values() if run.status != FINISHED or run.error]
    count = f"{len(runs) - len(failed)} of {len(runs)} jobs finished"
    again = "; the same command runs the others again" if failed else ""
    title = f"{study_folder}: {count}{again}"
    return "\n".join(["", title, "-" * len(title), *lines, *_tracebacks(failed)]), not failed


def _row(job: str, run: Run, names: Mapping[str, str], arms: Mapping[str, Arm]) -> tuple[str, ...]:
    name, _, shard = job.partition(f"/{SHARDS}/")
    arm = arms.get(name)
    title = f"{names.get(name, name)} {shard}".rstrip()
    success = difference = latency = ""
    if arm:
        success = f"{arm.rate:.3f} {interval(arm.interval)} of {arm.n}"
        difference = "the baseline" if arm.is_baseline else "no baseline"
        if arm.versus:
            paired = arm.versus.success
            difference = f"{paired.difference:+.3f} {interval(paired.difference_interval, '+.2f')}"
        if arm.latency:
            latency = f"{ms(arm.latency.p50_ms)} ms, {arm.latency.ratio:.3g}x"
    state = f"{run.status}: {run.error}" if run.error else run.status
    if arm and arm.run.n_errors:
        state += f", {arm.run.n_errors} episodes with errors"
    return title, success, difference, latency, state


def _tracebacks(failed: Sequence[Run]) -> list[str]:
    lines = []
    for run in failed:
        path = run.folder / TRACEBACK
        if path.exists():
            lines += ["", str(path), path.read_text().rstrip()]
    return lines
