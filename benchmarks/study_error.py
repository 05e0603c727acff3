"""python benchmarks/study_error.py STUDY: how far the caches of a study put the actions off."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import torch
from omegaconf import OmegaConf
from tqdm import tqdm

from accel import CACHES
from accel.plans.flops import equivalent_steps
from benchmarks.candidates import Budget
from benchmarks.questions import ask, ground_of, jobs_of, own_spread, parser_of, scores
from benchmarks.writing import keep, markdown
from runners.jobs.prepare import MISTAKES
from runners.jobs.settings import UserError, choose
from runners.studies.study import runs_of

HEADER = ("cache", "whole steps", "error", "95 %", "median", "p95")


def caches_of(study: Path, task: str) -> dict[str, Any]:
    """{run: config of its cache} of the unquantised runs of a task with the checkpoint's sampler.

    Raises:
        UserError: there are none, or a config names what there is not.
    """
    found = {}
    for run in runs_of(study):
        cfg: Any = OmegaConf.create(run.config)
        cached = cfg.quant.name == "none" and cfg.cache.name != "none"
        if run.name.startswith(f"{task}_") and cached and cfg.sampler.kind == "ddpm":
            found[run.name] = choose(CACHES, cfg.cache, "cache")
    if not found:
        raise UserError(f"no run of task={task} with a cache in {study}")
    return found


def measure(options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Errors of every arm on the same queries, and of the plain policy by another noise."""
    caches, jobs = caches_of(options.study, options.task), jobs_of(options, "ddpm")
    torch.set_num_threads(options.threads)
    ground, rows = ground_of(jobs, "ddpm", options.noises, out), []
    budget = Budget(ground.policy, ground.calibration, 0, ground.choosing)
    for run, config in tqdm(caches.items(), "arms", disable=None):
        arm = budget.cached(config)
        actions, computed = ask(ground.reporting, arm.policy, arm.plan)
        found = {"run": run, "cache": arm.words, "steps": equivalent_steps(arm.policy, computed)}
        rows.append(found | scores(actions, ground.reporting))
    spread = float(own_spread(ground.reporting).mean())
    return {"task": options.task, "n_queries": options.queries, "spread": spread, "rows": rows}


def render(found: Mapping[str, Any]) -> str:
    """Markdown, the smallest error first."""
    lines = []
    for row in sorted(found["rows"], key=lambda r: float(r["error_mean"])):
        low, high = row["error_interval"]
        error = (f"{row['error_mean']:.4f}", f"{low:.4f}-{high:.4f}")
        spread = (f"{row['error_p50']:.4f}", f"{row['error_p95']:.4f}")
        lines.append((row["cache"], f"{row['steps']:.1f}", *error, *spread))
    said = f"{found['n_queries']} queries; the plain policy by another noise: {found['spread']:.3f}"
    return f"{markdown(HEADER, lines)}\n\n{said}"


def main(argv: Sequence[str]) -> int:
    """0: done; 2: a wrong option, before anything is made."""
    words = parser_of("study_error", __doc__, noises=2)
    words.add_argument("study", type=Path, help="multirun/NAME or results/studies/NAME.yaml")
    options = words.parse_args(argv)
    out: Path = options.out or Path("multirun/study_error") / options.task
    try:
        found = measure(options, out)
    except (UserError, *MISTAKES) as error:
        print(f"error: {UserError(error)}", file=sys.stderr)
        return 2
    keep(out, "errors", found, render(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
