"""A sweep on a real Ray of this machine, workers killed; run with `pytest -m slow` and this file.

Needs `pip install "skipstep[ray]"`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers.places import FIXTURES, PROJECT
from tests.runners.test_killed_sweep import episodes, results

FIXTURE = FIXTURES / "lift_lowdim_transformer/latest.ckpt"
SWEEP = (
    "experiment=ablation",
    "task=lift",
    f"task.checkpoint={FIXTURE}",
    "task.max_steps=40",
    "cache=none,uniform",
    "n_episodes=4",
    "n_envs=1",
    "threads=1",
    "videos=0",
    "latency.repeats=0",
    "logger=none",
)
RAY = ("hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2")
JOBS, N_EPISODES = 2, 8
ATTEMPTS, LATE = 4, "The current node timed out during startup"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(find_spec("ray") is None, reason='no "skipstep[ray]" installed'),
]


def wait_until(true: Callable[[], bool], what: str, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.1)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short name, since those of Ray's sockets may have 107 characters in all."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    yield folder
    for process in psutil.process_iter():
        if str(folder) in _words(process) or _in(process, folder):
            with suppress(psutil.Error):
                process.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same sweep without Ray."""
    folder = tmp_path_factory.mktemp("without") / "sweep"
    ends_with(0, sweep(folder), folder)
    return folder


def sweep(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    own = [f"+hydra.launcher.ray.init._temp_dir={folder.parent / 'r'}"] if words else []
    with (folder / "said").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, str(PROJECT / "run.py"), *SWEEP, *words, *own],
            cwd=folder,
            env={**os.environ, "HOME": str(folder.parent)},
            stdout=said,
            stderr=said,
        )


def workers(folder: Path) -> list[psutil.Process]:
    """Processes of Ray that execute a run of a sweep in this folder."""
    return [p for p in psutil.process_iter() if _word(p) == "ray::_run_job" and _in(p, folder)]


def alive(place: Path) -> list[str]:
    """What runs with a name or a folder of this test."""
    return [_words(p) for p in psutil.process_iter() if str(place) in _words(p) or _in(p, place)]


def ends_with(code: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    assert process.wait(timeout=900) == code, (folder / "said").read_text()


def started(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """A sweep whose two workers are at work; Ray itself gives up starting where others compute."""
    for _ in range(ATTEMPTS):
        process = sweep(folder, *words)

        def at_work(process: subprocess.Popen[bytes] = process) -> bool:
            return process.poll() is not None or len(workers(folder)) == JOBS

        wait_until(at_work, "two workers at once")
        said = (folder / "said").read_text()
        if LATE not in said:
            return process
        (folder / "said").unlink()
    raise AssertionError(said)


def kill_one_of_two(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """SIGKILL to a worker once there is an episode; the episodes at that time."""
    wait_until(lambda: len(episodes(folder)) >= 1, "an episode")
    (first, *others) = workers(folder)
    assert len(others) == JOBS - 1, "both run at once"
    print(f"kill -9 {first.pid}, one of {[p.pid for p in (first, *others)]}")
    os.kill(first.pid, signal.SIGKILL)
    cut = episodes(folder)
    assert len(cut) < N_EPISODES
    return cut


def check_whole(folder: Path, here: Path, cut: dict[tuple[str, int], dict[str, Any]]) -> None:
    said = (folder / "said").read_text()
    assert f"{JOBS} of {JOBS} jobs finished" in said
    whole = episodes(folder)
    assert len(whole) == N_EPISODES
    assert whole == episodes(here)
    assert results(folder) == results(here)
    assert cut.items() <= whole.items()
    wait_until(lambda: not alive(folder.parent), "the end of Ray", 60)
    print(said)


def test_a_killed_worker_is_completed_by_the_same_command(place: Path, here: Path) -> None:
    folder = place / "sweep"
    words = (*RAY, "hydra.launcher.ray.remote.max_retries=0")
    process = started(folder, *words)
    cut = kill_one_of_two(folder)
    ends_with(1, process, folder)
    said = (folder / "said").read_text()
    assert f"of {JOBS} jobs finished; the same command runs the others again" in said
    wait_until(lambda: not alive(place), "the end of what the first one started", 60)
    ends_with(0, started(folder, *words), folder)
    check_whole(folder, here, cut)


def test_ray_goes_on_with_the_run_of_a_killed_worker(place: Path, here: Path) -> None:
    folder = place / "sweep"
    process = started(folder, *RAY)
    cut = kill_one_of_two(folder)
    ends_with(0, process, folder)
    check_whole(folder, here, cut)


def _word(process: psutil.Process) -> str:
    return _words(process).partition(" ")[0]


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _in(process: psutil.Process, folder: Path) -> bool:
    try:
        return Path(process.cwd()).is_relative_to(folder)
    except (psutil.Error, OSError):
        return False
