"""A run that is cheap and whole: a random policy on PushT, started as a user would start it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from policies import DiffusionPolicy, PolicyConfig, SamplerConfig, TaskInfo, UnetConfig, save_policy

PROJECT = Path(__file__).resolve().parents[2]
N_EPISODES, LONGEST_S = 16, 150.0
OF_THE_HOUR = ("seconds", "attempts", "machine")
OF_THE_STUDY = ("p_holm", "n_comparisons", "loss_detected")  # adjusted over the runs there were
MEASURED = (
    "stats",
    "wall_s",
    "time",
    "peak_memory_mb",
    "latency",
    "machines",
    "command",
    "finished",
)


def random_policy(folder: Path) -> Path:
    """A UNet of PushT's keypoints with drawn weights."""
    torch.manual_seed(0)
    sizes = UnetConfig(2, 8, 2, "global", 20, [8, 16], 8, n_groups=4, oa_step_convention=True)
    sampler, task = SamplerConfig(num_train_timesteps=4, steps=4), TaskInfo(name="pusht_lowdim")
    policy = DiffusionPolicy(PolicyConfig(sizes, 20, 2, 4, sampler=sampler, task=task))
    save_policy(policy.eval(), folder)
    return folder


def words(policy: Path, *more: str) -> list[str]:
    """The command."""
    return [
        *(sys.executable, str(PROJECT / "run.py"), "task=pusht", f"task.checkpoint={policy}"),
        *(f"n_episodes={N_EPISODES}", "n_envs=2", "task.max_steps=16", "threads=1", "videos=1"),
        *("latency.repeats=0", "logger=none", *more),
    ]


def start(command: list[str], folder: Path, **env: str) -> subprocess.Popen[bytes]:
    """Begin in a folder; what it says is in the file `said` there or, for the disk, beside it."""
    with folder.with_name(f"{folder.name}.said").open("ab") as said:
        return subprocess.Popen(
            command, cwd=folder, stdout=said, stderr=said, env=environment() | env
        )


def environment() -> dict[str, str]:
    """Of every command."""
    return {**os.environ, "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(PROJECT)}


def said(folder: Path) -> str:
    return folder.with_name(f"{folder.name}.said").read_text(errors="replace")


def episodes(folder: Path, job: str = "*") -> dict[int, Any]:
    """What is on disk of a job, without what depends on the machine.

    An episode that failed is played again, and its later line counts.

    Raises:
        AssertionError: an episode that ended well is there twice.
    """
    found: dict[int, Any] = {}
    for path in folder.glob(f"multirun/main/{job}/episodes.jsonl"):
        for line in path.read_bytes().rpartition(b"\n")[0].splitlines():
            record = json.loads(line)
            before = found.get(record["seed"], {"status": "never"})
            assert before["status"] != "ok", f"seed {record['seed']} is there twice"
            kept = {k: v for k, v in record.items() if k not in (*OF_THE_HOUR, "video")}
            found[record["seed"]] = kept
    return found


def result(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("multirun/main/*/result.json")
    return kept(path)


def kept(path: Path) -> dict[str, Any]:
    """A result without what depends on the machine, on commits, or on which runs ended before."""
    read = json.loads(path.read_text())
    versions = {k: v for k, v in read["versions"].items() if k != "commit"}
    versus = {k: v for k, v in (read["baseline"] or {}).items() if k not in OF_THE_STUDY}
    found = {k: v for k, v in read.items() if k not in MEASURED}
    return found | {"versions": versions, "baseline": versus}


def ended(process: subprocess.Popen[bytes], seconds: float = LONGEST_S) -> int:
    """Its exit code.

    Raises:
        AssertionError: it hangs; it is killed.
    """
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        kill_tree(process)
        raise AssertionError(f"it hangs after {seconds:g} s") from None


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    for child in descendants(process):
        child.kill()
    process.kill()
    process.wait()


def descendants(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def workers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes of the environments: children of the fork server."""
    return [child for child in descendants(process) if child.ppid() != process.pid]


def assert_gone(processes: list[psutil.Process], seconds: float = 20.0) -> None:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    left = [p.pid for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not left, f"{len(left)} processes are left"


def until_there_are(folder: Path, n: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait for so many episodes; whether the process still runs then."""
    deadline = time.monotonic() + LONGEST_S
    while process.poll() is None and time.monotonic() < deadline:
        if len(episodes(folder)) >= n:
            return True
        time.sleep(0.02)
    return False


class Calm:
    """The undisturbed run, made once in a folder."""

    def __init__(self, folder: Path) -> None:
        self.policy = random_policy(folder / "policy")
        self.command = words(self.policy)
        calm = folder / "calm"
        calm.mkdir()
        assert ended(start(self.command, calm)) == 0, said(calm)
        self.episodes, self.result = episodes(calm), result(calm)
        assert len(self.episodes) == N_EPISODES

    def differs(self, folder: Path) -> str:
        """What of a run in a folder is not as here."""
        try:
            found = episodes(folder)
            if found != self.episodes:
                wrong = [s for s in self.episodes if found.get(s) != self.episodes[s]]
                return f"{len(found)} episodes, seed {wrong[:1]} differs"
            mine = result(folder)
        except (AssertionError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        wrong_keys = [k for k in self.result if mine.get(k) != self.result[k]]
        return f"{wrong_keys[0]} of the result differs" if wrong_keys else ""
