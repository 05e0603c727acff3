"""What a sweep ends with: one line per job, and the tracebacks of those that failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import UserError
from ..formatting import changes, columns, ms, rates, share, speed, underlined, yes_no
from ..store.files import read_traceback
from ..store.names import TRACEBACK
from ..store.reading import FINISHED, Run, read_run
from ..store.shards import whole_run
from ..studies.comparisons import Arm, ReportConfig, findings
from ..studies.study import read_study

HEADER = (
    *("job", "success", "difference", "loss detected", "non-inferior", "FLOPs"),
    *("latency, times as fast", "state"),
)


def summary(folders: Sequence[Path]) -> tuple[str, bool]:
    """A table of these runs or shards, and whether all of them finished.

    Differences are to the unaccelerated arm of the study, which may be of an earlier sweep.
    """
    runs = {folder: read_run(folder) for folder in dict.fromkeys(folders)}
    names: dict[Path, str] = {}
    arms: dict[Path, Arm] = {}
    studies = list(dict.fromkeys(whole_run(folder).parent for folder in folders))
    for path in studies:
        with suppress(UserError):  # of a study of other runners' jobs, which have no table
            study = read_study(path)
            for run in study.runs:
                names[run.folder] = f"{study.strata[run.name]}: {study.labels[run.name]}"
            arms |= {arm.run.folder: arm for arm in findings(study, ReportConfig())}
    rows = [HEADER, *(_row(run, names, arms) for run in runs.values())]
    failed = [run for run in runs.values() if run.status != FINISHED or run.error]
    count = f"{len(runs) - len(failed)} of {len(runs)} jobs finished"
    again = "; the same command runs the others again" if failed else ""
    title = f"{', '.join(map(str, studies))}: {count}{again}"
    return underlined(title, [*columns(rows), *_tracebacks(failed)]), not failed


def _row(run: Run, names: Mapping[Path, str], arms: Mapping[Path, Arm]) -> tuple[str, ...]:
    folder = whole_run(run.folder)
    shard = "" if folder == run.folder else f" {run.name}"
    arm, title = arms.get(folder), names.get(folder, folder.name) + shard
    success = difference = flops = latency = ""
    verdict = ("", "")
    if arm:
        success = f"{rates(arm.rate, arm.interval)} of {arm.n}"
        difference = "the baseline" if arm.is_baseline else "no baseline"
        if arm.versus:
            paired = arm.versus.success
            difference = changes(paired.difference, paired.difference_interval)
            verdict = (yes_no(arm.versus.loss_detected), yes_no(arm.versus.noninferiority.shown))
        flops = share(arm.flops.share)
        if arm.latency:
            latency = f"{ms(arm.latency.p50_ms)} ms, {speed(arm.latency.ratio)}"
    state = f"{run.status}: {run.error}" if run.error else run.status
    if arm and arm.run.n_errors:
        state += f", {arm.run.n_errors} episodes with errors"
    return title, success, difference, *verdict, flops, latency, state


def _tracebacks(failed: Sequence[Run]) -> list[str]:
    lines = []
    for run in failed:
        path = run.folder / TRACEBACK
        if told := read_traceback(path):
            lines += ["", str(path), told]
    return lines
