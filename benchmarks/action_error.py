"""python benchmarks/action_error.py: how far accelerated actions are from the plain policy's."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def parser(arms: Sequence[str]) -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(prog="benchmarks/action_error.py", description=__doc__)
    words.add_argument("--task", default="kitchen")
    words.add_argument("--checkpoint", help="as task.checkpoint= (the task's own)")
    words.add_argument("--steps", type=int, nargs="+", default=[5, 7, 10, 20], metavar="S")
    words.add_argument("--samplers", nargs="+", default=["ddpm", "ddim16"], metavar="SAMPLER")
    words.add_argument("--arms", nargs="+", default=list(arms), metavar="ARM", help=", ".join(arms))
    words.add_argument("--queries", type=int, default=64, help="to choose on, and to report on")
    words.add_argument("--episodes", type=int, default=8, help="of the queries to choose on")
    words.add_argument("--noises", type=int, default=4, help="other noises per reported query")
    words.add_argument("--rounds", type=int, default=15, help="timed calls; 0 times nothing")
    words.add_argument("--threads", type=int, default=2, help="as threads=")
    words.add_argument("--n-envs", default="auto", help="as n_envs=")
    words.add_argument("--out", type=Path, help="folder (multirun/action_error/TASK)")
    return words


def main(argv: Sequence[str]) -> int:
    """0: done; 2: a wrong option, before anything is made."""
    from benchmarks.actions.arms import ARMS
    from benchmarks.actions.questions import Asked, ground_of, prepare
    from benchmarks.actions.study import SCORES, Table, ordered, run_sampler
    from benchmarks.latency import machine
    from runners.jobs.prepare import MISTAKES
    from runners.jobs.settings import UserError

    options = parser(tuple(ARMS)).parse_args(argv)
    out: Path = options.out or Path("multirun/action_error") / options.task
    try:
        check(options, tuple(ARMS))
        asked = Asked(
            task=options.task,
            checkpoint=options.checkpoint,
            n_queries=options.queries,
            n_episodes=options.episodes,
            n_noises=options.noises,
            threads=options.threads,
            n_envs=options.n_envs,
        )
        jobs = [prepare(asked, sampler) for sampler in options.samplers]
    except (UserError, *MISTAKES) as error:
        print(f"error: {UserError(error)}", file=sys.stderr)
        return 2
    logging.getLogger("accel.caches").setLevel(logging.ERROR)  # hundreds of settings are tried
    out.mkdir(parents=True, exist_ok=True)
    made = json.loads((out / SCORES).read_text()) if (out / SCORES).exists() else {"rows": {}}
    table = Table(out, made["rows"])
    table.about = {"machine": machine(), "threads": asked.threads, "command": list(argv)}
    for job in jobs:
        ground = ground_of(job, asked, out)
        n = ground.policy.n_inference_steps
        steps = [s for s in options.steps if s < n]
        if skipped := [s for s in options.steps if s >= n]:
            print(f"{job.sampler}: S = {skipped} left out, the sampler has {n} steps")
        run_sampler(ground, steps, options.arms, options.rounds, table)
    report(ordered(table), out, f"{asked.task}: action error, {asked.n_queries} queries")
    return 0


def check(options: argparse.Namespace, arms: Sequence[str]) -> None:
    """Refuse options of the wrong range."""
    if unknown := [arm for arm in options.arms if arm not in arms]:
        raise ValueError(f"--arms must be among {', '.join(arms)}, got {', '.join(unknown)}")
    for name, least in {"steps": 2, "rounds": 0}.items():
        values = getattr(options, name)
        for value in values if isinstance(values, list) else [values]:
            if value < least:
                raise ValueError(f"--{name} must be at least {least}, got {value}")
    if options.rounds == 1:
        raise ValueError("--rounds must be 0 or at least 2, got 1")


def report(rows: Sequence[dict[str, object]], out: Path, title: str) -> None:
    """Print the table, write it as Markdown and CSV, and draw it."""
    from benchmarks.actions.plot import write_page, write_picture
    from benchmarks.actions.table import as_csv, as_markdown
    from benchmarks.setting import Unavailable
    from runners.store.folder import write_whole

    write_whole(out / "action_error.csv", as_csv(rows))
    write_whole(out / "action_error.md", as_markdown(rows))
    print(as_markdown(rows))
    for write, name in ((write_page, "action_error.html"), (write_picture, "action_error.png")):
        try:
            write(rows, out / name, title)
            print(f"plot   {out / name}")
        except Unavailable as error:
            print(f"{name} not made: {error}")
    print(f"values {out / 'action_error.json'}")


def run() -> int:
    try:
        return main(sys.argv[1:])
    except KeyboardInterrupt:
        print("interrupted: the rows that were finished are in the folder", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run())
