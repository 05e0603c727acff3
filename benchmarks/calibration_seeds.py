"""How far a calibrated cache's plan and actions move with the seeds of its calibration.

    python -m benchmarks.calibration_seeds kitchen --starts 300000 310000 320000 --held-out 330000

Plans of `--cache` from each start seed's calibration against those from the first one's, and every
plan's action error on the queries of `--held-out`, which no plan was made from. The calibrations
are those of `runner=calibrate calibration.start_seed=N` with the same defaults, made before.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import numpy as np
import torch

from accel import Calibration, resolve
from runners import cli
from runners.acceleration.calibration import QUERIES, find
from runners.episodes.queries import Queries
from runners.formatting import NOTHING
from runners.jobs.job import Job
from runners.search.judge import Judge


def job_of(task: str, start: int, words: tuple[str, ...] = ()) -> Job:
    """What has the calibration of this start seed."""
    base = ("runner=calibrate", f"task={task}", f"calibration.start_seed={start}", "logger=none")
    job: Job = cli.job_of([*base, *words])
    return job


def calibration_of(job: Job) -> Calibration:
    """The calibration that is there; SystemExit with the command that makes it."""
    found = find(job.recipe, job.policy)
    if found is None:
        start = job.recipe.choice.start_seed
        sys.exit(
            f"no calibration of start seed {start}: python run.py runner=calibrate "
            f"task={job.task.name} calibration.start_seed={start}"
        )
    return found


HEADER = (
    "| cache.steps | calibrated from seed | cells that differ | computed cells that moved "
    "| action error, mean | 95th percentile | against the first calibration, paired |"
)


def row(steps: int, start: int, masks: Sequence[np.ndarray], errors: Sequence[np.ndarray]) -> str:
    """A plan's mask and action errors (queries,) beside those of the first calibration's plan."""
    (first, mask), (before, after) = masks, errors
    moved, differ = (mask & ~first).sum() / first.sum(), (mask != first).mean()
    gap, n = after - before, len(after)
    paired = f"{gap.mean():+.4f} ± {1.96 * gap.std(ddof=1) / n**0.5:.4f}" if gap.any() else ""
    p95 = np.percentile(after, 95)
    cells = [steps, start, f"{differ:.0%}", f"{moved:.0%}", f"{after.mean():.4f}", f"{p95:.4f}"]
    return f"| {' | '.join(str(cell) for cell in (*cells, paired or NOTHING))} |"


def main() -> int:
    """Print a table: a line per budget and start seed."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("task")
    words.add_argument("--starts", type=int, nargs="+", required=True)
    words.add_argument("--held-out", type=int, required=True)
    words.add_argument("--cache", default="bac")
    words.add_argument("--steps", type=int, nargs="+", default=[4, 9, 14])
    options = words.parse_args()
    torch.set_num_threads(1)
    held_out = job_of(options.task, options.held_out)
    calibration_of(held_out)
    queries = Queries.load(held_out.recipe.folder / QUERIES)
    judge, everything = Judge(held_out, queries), np.arange(len(queries))
    found = [calibration_of(job_of(options.task, n)) for n in options.starts]
    print(HEADER)
    print("|---" * 7 + "|")
    for steps in options.steps:
        cache = (f"cache={options.cache}", f"cache.steps={steps}")
        config = job_of(options.task, options.starts[0], cache).cache
        plans = [resolve(held_out.policy, config, calibration) for calibration in found]
        errors = [judge.errors(plan, everything) for plan in plans]
        for start, plan, error in zip(options.starts, plans, errors, strict=True):
            print(row(steps, start, (plans[0].mask, plan.mask), (errors[0], error)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
