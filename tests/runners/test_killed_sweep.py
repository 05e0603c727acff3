"""A sweep of six Lift jobs, killed three times; run with `pytest -m slow` and this file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.helpers.places import FIXTURES, PROJECT

FIXTURE = FIXTURES / "lift_lowdim_transformer/latest.ckpt"
SWEEP = (
    "-m",
    "task=lift",
    f"task.checkpoint={FIXTURE}",
    "task.max_steps=10",
    "cache=uniform",
    "cache.steps=5,10,20",
    "noise_seed=0,1",
    "n_episodes=3",
    "n_envs=1",
    "threads=1",
    "videos=0",
    "latency.repeats=0",
    "logger=none",
)
N_EPISODES = 18
MEASURED = ("stats", "wall_s", "finished", "time", "peak_memory_mb")


def start(folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    words = [sys.executable, str(PROJECT / "run.py"), *SWEEP]
    with (folder / "said").open("ab") as said:
        return subprocess.Popen(words, cwd=folder, stdout=said, stderr=said)


def episodes(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """By job and seed, without what depends on the machine."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for path in sorted(folder.glob("multirun/*/*/episodes.jsonl")):
        for line in path.read_bytes().rpartition(b"\n")[0].splitlines():
            record = json.loads(line)
            key = (path.parent.name, record["seed"])
            assert key not in found, "an episode was run twice"
            found[key] = {k: v for k, v in record.items() if k != "seconds"}
    return found


def results(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.parent.name: {
            k: v for k, v in json.loads(path.read_text()).items() if k not in MEASURED
        }
        for path in folder.glob("multirun/*/*/result.json")
    }


def kill(folder: Path, at_least: int, after_s: float) -> None:
    """Kill the sweep some time after it has so many episodes."""
    process = start(folder)
    while len(episodes(folder)) < at_least and process.poll() is None:
        time.sleep(0.05)
    time.sleep(after_s)
    assert process.poll() is None, (folder / "said").read_text()
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_sweep_ends_like_one_that_was_not(tmp_path: Path) -> None:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    random = np.random.default_rng(seed)
    assert start(tmp_path / "calm").wait() == 0
    calm = episodes(tmp_path / "calm")
    assert len(calm) == N_EPISODES
    for first in (0, 5, 10):  # before the last job, whatever the machine's speed
        kill(tmp_path / "killed", int(random.integers(first, first + 5)), random.uniform(0, 1))
        assert len(episodes(tmp_path / "killed")) < N_EPISODES, seed
    assert start(tmp_path / "killed").wait() == 0
    assert episodes(tmp_path / "killed") == calm, seed
    assert results(tmp_path / "killed") == results(tmp_path / "calm"), seed
    said = (tmp_path / "killed/said").read_text()
    assert "multirun/main: 6 of 6 jobs finished" in said
