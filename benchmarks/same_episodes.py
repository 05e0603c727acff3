"""Is an episode the same whatever is played beside it, and after the run was killed?

    python -m benchmarks.same_episodes --play       # all tasks, one after another: 15 minutes
    python -m benchmarks.same_episodes --play --tasks libero    # where its packages are installed
    python -m benchmarks.same_episodes              # the table of what was played

A small policy with drawn weights acts in each task: with one, three and four environments at a
time, and in a run whose processes are killed (SIGKILL) once two of its episodes are on disk, which
then goes on with three. Every record must be the same, but for the seconds it took: success, score,
steps, and all that was measured of the motion. Rows are kept in results/same_episodes.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from envs import make_task

ROOT = Path(__file__).resolve().parent.parent
ROWS = ROOT / "results" / "same_episodes.csv"
SEEDS, STEPS = 8, 60
WORLDS: dict[str, dict[str, Any]] = {  # task -> what its configuration needs
    **{name: {} for name in ("kitchen", "lift", "can", "square", "transport", "tool_hang")},
    "pusht": {"convention": "diffusion_policy", "obs": "keypoints"},
    "metaworld": {"env": "push-v3"},
    "libero": {"suite": "libero_spatial", "index": 0, "obs": "low_dim"},
}
USUAL = [name for name in WORLDS if name != "libero"]  # whose packages come with .[sim]
ARMS = {"n_envs=3": False, "n_envs=4": False, "killed, then n_envs=3": True}
OWN = ("seconds", "attempts", "machine")  # of a record: when and where, not what
HEADER = "| task | " + " | ".join(ARMS) + " |\n|---" + "|---" * len(ARMS) + "|"


class Row(NamedTuple):
    """How many of the records of an arm are those of one environment alone."""

    task: str
    arm: str
    same: int
    n_seeds: int


def save_drawn_policy(name: str, folder: Path) -> None:
    """A transformer of the task's sizes; its weights are drawn, so its actions are of any size."""
    import torch

    from policies import (
        DiffusionPolicy,
        NetworkConfig,
        PolicyConfig,
        SamplerConfig,
        TaskInfo,
        save_policy,
    )

    task = make_task(name, **WORLDS[name])
    torch.manual_seed(0)
    n, m = task.obs_dim, task.action_dim
    sizes = NetworkConfig(m, m, 10, 2, cond_dim=n, n_layer=2, n_head=2, n_emb=32)
    config = PolicyConfig(
        sizes,
        n,
        m,
        8,
        sampler=SamplerConfig(steps=8),
        task=TaskInfo(task.info()["name"]),
    )
    policy = DiffusionPolicy(config).eval()
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    save_policy(policy, folder)


def command(name: str, policy: Path, n_envs: int, study: str) -> list[str]:
    """A run of the drawn policy."""
    words = [f"task={name}", f"task.checkpoint={policy}", f"task.max_steps={STEPS}"]
    words += [f"task.{key}={value}" for key, value in WORLDS[name].items()]
    words += [f"n_episodes={SEEDS}", f"n_envs={n_envs}", f"study={study}", "threads=1"]
    quiet = ["videos=0", "latency.repeats=0", "logger=none", "accept=null"]
    return [sys.executable, str(ROOT / "run.py"), *words, *quiet]


def records(folder: Path, study: str) -> dict[int, dict[str, Any]]:
    """{seed: its record without when and where}."""
    found = {}
    for path in folder.glob(f"multirun/{study}/*/episodes.jsonl"):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            seed = record.pop("seed")
            if record["status"] != "ok" or seed in found:
                raise RuntimeError(f"{path}: seed {seed} failed or was played twice")
            found[seed] = {k: v for k, v in record.items() if k not in OWN}
    return found


def run(folder: Path, words: Sequence[str]) -> None:
    """To its end."""
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()[-500:]}")


def run_and_kill(folder: Path, words: Sequence[str], study: str) -> int:
    """Kill its whole process group once two episodes are on disk; how many there are."""
    process = subprocess.Popen(
        words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
    )
    while process.poll() is None:
        written = list(folder.glob(f"multirun/{study}/*/episodes.jsonl"))
        if written and written[0].read_text().count("\n") >= 2:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            break
        time.sleep(0.01)
    n = len(records(folder, study))
    if not 0 < n < SEEDS:
        raise RuntimeError(f"{study}: killed with {n} of {SEEDS} episodes on disk")
    return n


def play(name: str) -> Iterator[Row]:
    """The arms of a task, each compared with one environment alone."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        policy = folder / "policy"
        save_drawn_policy(name, policy)
        run(folder, command(name, policy, 1, "alone"))
        expected = records(folder, "alone")
        for i, (arm, is_killed) in enumerate(ARMS.items()):
            words = command(name, policy, int(arm[-1]), f"arm{i}")
            if is_killed:
                run_and_kill(folder, words, f"arm{i}")
            run(folder, words)
            found = records(folder, f"arm{i}")
            yield Row(name, arm, sum(found[s] == expected[s] for s in expected), len(expected))


def read(path: Path) -> list[Row]:
    """The rows that are kept."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        return [Row(r["task"], r["arm"], int(r["same"]), int(r["n_seeds"])) for r in rows]


def keep(rows: Sequence[Row], path: Path) -> None:
    """In place of older rows of the same task."""
    new = {row.task for row in rows}
    kept = [row for row in read(path) if row.task not in new]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([Row._fields, *kept, *rows])


def table(rows: Sequence[Row]) -> str:
    """A line per task."""
    found = {(row.task, row.arm): f"{row.same} of {row.n_seeds}" for row in rows}
    lines = [
        f"| {task} | {' | '.join(found[task, arm] for arm in ARMS)} |"
        for task in WORLDS
        if (task, next(iter(ARMS))) in found
    ]
    return "\n".join([HEADER, *lines])


def main() -> int:
    """Print the table, after playing where that was asked for; 1 where a record differs."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--play", action="store_true", help="play them, which takes a while")
    words.add_argument("--tasks", nargs="+", default=USUAL, choices=list(WORLDS))
    options = words.parse_args()
    for name in options.tasks if options.play else ():
        keep(list(play(name)), ROWS)
        print(name, "done", file=sys.stderr)
    rows = read(ROWS)
    print(table(rows))
    return int(any(row.same != row.n_seeds for row in rows))


if __name__ == "__main__":
    sys.exit(main())
