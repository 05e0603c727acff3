"""Processes killed, stopped and starved while episodes are on disk; then the same command again.

What must hold: no episode is lost or there twice, nothing hangs, no process is left, and the run
ends as one that was left alone.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from . import runs
from .records import Row, played

PAUSE_S = 0.3


def _stopped(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(PAUSE_S)
    os.kill(pid, signal.SIGCONT)


def _starved(pid: int) -> None:
    """It gets no more memory."""
    resource.prlimit(pid, resource.RLIMIT_AS, (2**20, 2**20))


ACTIONS: dict[str, Callable[[int], None]] = {
    "SIGKILL": lambda pid: os.kill(pid, signal.SIGKILL),
    "SIGTERM": lambda pid: os.kill(pid, signal.SIGTERM),
    "SIGSTOP, SIGCONT": _stopped,
    "no memory": _starved,
}
ENDS = ("SIGKILL", "SIGTERM")  # of the main process
FEWER = range(58)  # seeds that were played when two workers a run was all


def workers_of(seed: int) -> int:
    """How many times something is done to a worker before the main process ends."""
    return 2 if seed in FEWER else 5


def _disturb(
    process: subprocess.Popen[bytes],
    folder: Path,
    rng: random.Random,
    row: dict[str, Row],
    seed: int,
) -> None:
    """Something happens to workers, then to the main process, each with episodes on disk."""
    moments = sorted(rng.randrange(1, runs.N_EPISODES - 3) for _ in range(workers_of(seed) + 1))
    for moment in moments[:-1]:
        if not runs.until_there_are(folder, moment, process):
            return
        time.sleep(rng.random() * 0.05)
        name = rng.choice(list(ACTIONS))
        if there := runs.workers(process):
            with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
                ACTIONS[name](rng.choice(there).pid)
                row[f"worker: {name}"].count(seed, "done")
    if not runs.until_there_are(folder, moments[-1], process):
        return
    family, name = runs.descendants(process), rng.choice(ENDS)
    ACTIONS[name](process.pid)
    code = runs.ended(process, 60.0)
    expected = {"SIGKILL": -signal.SIGKILL, "SIGTERM": 130}[name]
    assert code in (expected, 0), f"exit code {code} after {name} of the main process"
    runs.assert_gone(family)
    row[f"main: {name}"].count(seed, "done")


def trial(calm: runs.Calm, folder: Path, seed: int, rows: dict[str, Row]) -> str:
    """What is wrong, or nothing."""
    rng = random.Random(f"kills {seed}")
    folder.mkdir()
    process = runs.start(calm.command, folder)
    try:
        _disturb(process, folder, rng, rows, seed)
        before = runs.episodes(folder)
        ended_well = {s: record for s, record in before.items() if record["status"] == "ok"}
        lost = [s for s, record in ended_well.items() if record != calm.episodes[s]]
        if process.poll() is None:
            runs.ended(process)
        again = runs.start(calm.command, folder)
        family = runs.descendants(again)
        code = runs.ended(again)
        runs.assert_gone(family)
    except AssertionError as error:
        runs.kill_tree(process)
        return str(error)
    if code:
        return f"the same command again ends with {code}: {runs.said(folder)[-300:]}"
    return calm.differs(folder) or (f"seed {lost[0]} was recorded otherwise" if lost else "")


def run(first: int, last: int, until: float = float("inf")) -> list[Row]:
    """Each seed is a run that is disturbed, ended and done again."""
    names = [*(f"worker: {name}" for name in ACTIONS), *(f"main: {name}" for name in ENDS)]
    rows = {name: Row(name, first, last) for name in names}
    whole, seed = Row("run, done again", first, last), first
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        calm = runs.Calm(Path(name))
        while seed < last and time.monotonic() < until:
            began = time.monotonic()
            wrong = trial(calm, Path(name, str(seed)), seed, rows)
            took = time.monotonic() - began
            whole.count(seed, "finding" if wrong else "as undisturbed", wrong, seconds=took)
            seed += 1
    return played([whole, *rows.values()], seed)
