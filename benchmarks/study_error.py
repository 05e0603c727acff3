"""python benchmarks/study_error.py STUDY: how far the caches of a study put the actions off."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(prog="benchmarks/study_error.py", description=__doc__)
    words.add_argument("study", type=Path, help="multirun/NAME or results/studies/NAME.yaml")
    words.add_argument("--task", default="kitchen")
    words.add_argument("--queries", type=int, default=64, help="of other episodes, to report on")
    words.add_argument("--episodes", type=int, default=8, help="of the calibration")
    words.add_argument("--noises", type=int, default=2, help="other noises per query, for scale")
    words.add_argument("--threads", type=int, default=2, help="as threads=")
    words.add_argument("--n-envs", default="auto", help="as n_envs=")
    words.add_argument("--out", type=Path, help="folder (multirun/study_error/TASK)")
    return words


def caches_of(study: Path, task: str) -> dict[str, Any]:
    """{run: config of its cache} of the unquantised runs of a task with the checkpoint's sampler.

    Raises:
        UserError: there are none, or a config names what there is not.
    """
    from omegaconf import OmegaConf

    from accel import CACHES
    from runners.jobs.settings import UserError, choose
    from runners.studies.study import runs_of

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
    from tqdm import tqdm

    from accel.plans.flops import equivalent_steps
    from benchmarks.actions.candidates import Budget
    from benchmarks.actions.measure import answers, own_spread, scores
    from benchmarks.actions.questions import Asked, ground_of, prepare

    asked = Asked(
        task=options.task,
        n_queries=options.queries,
        n_episodes=options.episodes,
        n_noises=options.noises,
        threads=options.threads,
        n_envs=options.n_envs,
    )
    caches, jobs = caches_of(options.study, options.task), prepare(asked, "ddpm")
    out.mkdir(parents=True, exist_ok=True)
    ground = ground_of(jobs, asked, out)
    budget = Budget(ground.policy, ground.calibration, 0, ground.choosing)
    reporting, rows = ground.reporting, []
    for run, config in tqdm(caches.items(), "arms", disable=None):
        arm = budget.cached(config)
        actions, computed = answers(arm.program, reporting.obs, reporting.noise())
        steps = equivalent_steps(ground.policy, computed)
        found = {"run": run, "cache": arm.words, "steps": steps}
        rows.append(found | scores(actions, reporting))
    spread = float(own_spread(reporting.plain, reporting.others).mean())
    return {"task": options.task, "n_queries": len(reporting.obs), "spread": spread, "rows": rows}


def render(found: dict[str, Any]) -> str:
    """Markdown, the smallest error first."""
    lines = ["| cache | whole steps | error | 95 % | median | p95 |", "|---|---|---|---|---|---|"]
    for row in sorted(found["rows"], key=lambda r: r["error_mean"]):
        low, high = row["error_interval"]
        lines.append(
            f"| {row['cache']} | {row['steps']:.1f} | {row['error_mean']:.4f} | "
            f"{low:.4f}-{high:.4f} | {row['error_p50']:.4f} | {row['error_p95']:.4f} |"
        )
    lines.append(
        f"\n{found['n_queries']} queries; the plain policy by another noise: {found['spread']:.3f}"
    )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """0: done; 2: a wrong option, before anything is made."""
    from runners.jobs.prepare import MISTAKES
    from runners.jobs.settings import UserError
    from runners.store.folder import write_whole

    options = parser().parse_args(argv)
    out: Path = options.out or Path("multirun/study_error") / options.task
    try:
        found = measure(options, out)
    except (UserError, *MISTAKES) as error:
        print(f"error: {UserError(error)}", file=sys.stderr)
        return 2
    write_whole(out / "errors.json", json.dumps(found, indent=1))
    print(render(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
