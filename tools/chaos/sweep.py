"""A sweep of twelve jobs in which everything happens; then the same command until it ends.

The main process is killed once in each job, with episodes on disk; one worker is stopped for good;
and a file of a finished run is damaged. What must hold: no process is left, the report names the
run that it cannot read, and the sweep ends with the episodes, the results and the table of one that
was left alone.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from runners.store.reading import UNREADABLE, read_run

from . import runs
from .mutations import WHOLE
from .records import Row, played

N_JOBS = 12
JOBS = ("-m", "cache=uniform", "cache.steps=1,2,3", "noise_seed=0,1,2", "baseline=true", "videos=0")
DAMAGED = ("result.json", "episodes.jsonl", "status.json", "config.yaml")
LONGEST_S = 600.0  # a stopped worker is waited for 120 s
REPORT = (sys.executable, "-m", "runners.report", "multirun/main")


def folders(root: Path) -> list[Path]:
    """Of the jobs that have begun."""
    return sorted(path.parent for path in root.glob("multirun/main/*/config.yaml"))


def outcome(root: Path) -> dict[str, tuple[dict[Any, Any], dict[str, Any]]]:
    """{job: its episodes and its result} of a sweep, without what depends on the machine."""
    found: dict[str, tuple[dict[Any, Any], dict[str, Any]]] = {}
    for folder in folders(root):
        result = runs.kept(folder / "result.json")
        found[folder.name] = runs.episodes(root, folder.name), result
    return found


def table(root: Path) -> str:
    """The last one that was printed."""
    said = runs.said(root)
    start = said.rindex("jobs finished")
    return said[said.rindex("\n", 0, start) + 1 :]


def playing(root: Path, process: subprocess.Popen[bytes]) -> Path | None:
    """The job that this process is in, with episodes on disk and some to come."""
    for folder in folders(root):
        try:
            status = json.loads((folder / "status.json").read_text())
        except (OSError, ValueError):
            continue
        if status == {**status, "status": "running", "pid": process.pid}:
            n = len(runs.episodes(root, folder.name))
            return folder if 0 < n < runs.N_EPISODES - 1 else None
    return None


class Disturbed:
    """One trial: a sweep in a folder."""

    def __init__(self, command: list[str], root: Path, seed: int, rows: dict[str, Row]) -> None:
        self.command, self.root, self.seed, self.rows = command, root, seed, rows
        self.rng = random.Random(f"sweep {seed}")
        self.killed: set[Path] = set()
        self.stops_in = self.rng.randrange(N_JOBS)  # jobs that were killed before a worker is
        self.code = -1

    def go(self) -> None:
        """The same command until every job was killed once, or nothing is left to kill."""
        while len(self.killed) < N_JOBS and self._until_a_kill():
            pass

    def _until_a_kill(self) -> bool:
        process = runs.start(self.command, self.root)
        deadline = time.monotonic() + LONGEST_S
        while process.poll() is None:
            assert time.monotonic() < deadline, "it hangs"
            folder = playing(self.root, process)
            if folder is None or folder in self.killed:
                time.sleep(0.01)
                continue
            if len(self.killed) == self.stops_in:
                self._stop_a_worker(process)
            time.sleep(self.rng.random() * 0.05)
            family = runs.descendants(process)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            runs.assert_gone(family)
            self.killed.add(folder)
            self.rows["main: SIGKILL, in a job"].count(self.seed, "done")
            return True
        self.code = process.returncode
        return False

    def _stop_a_worker(self, process: subprocess.Popen[bytes]) -> None:
        """For good: it is killed with the others, stopped as it is."""
        self.stops_in = -1
        if there := runs.workers(process):
            self.rng.choice(there).suspend()
            self.rows["worker: SIGSTOP for good"].count(self.seed, "done")

    def damage(self) -> str:
        """Of a finished run, one file; what is wrong with the report of it, or nothing."""
        done = [folder for folder in folders(self.root) if (folder / "result.json").exists()]
        folder, name = self.rng.choice(done), self.rng.choice(DAMAGED)
        path = folder / name
        content = path.read_bytes()
        cut = content[: self.rng.randrange(len(content))]
        path.write_bytes(self.rng.choice((cut, *WHOLE)))
        self.rows["a file of a finished run"].count(self.seed, "damaged")
        run = read_run(folder)
        told = subprocess.run(REPORT, cwd=self.root, env=runs.environment(), capture_output=True)
        if told.returncode or b"Traceback" in told.stderr:
            return f"the report of {name} ends with {told.returncode}: {told.stderr[-300:]!r}"
        (page,) = self.root.glob("multirun/main/report/*.md")
        if run.status == UNREADABLE and folder.name not in page.read_text():
            return f"the report does not name {folder.name}, whose {name} it cannot read"
        return ""


def trial(calm: Path, command: list[str], root: Path, seed: int, rows: dict[str, Row]) -> str:
    """What is wrong, or nothing."""
    root.mkdir()
    disturbed = Disturbed(command, root, seed, rows)
    disturbed.go()
    again = runs.start(command, root)
    if code := runs.ended(again, LONGEST_S):
        return f"the same command again ends with {code}: {runs.said(root)[-300:]}"
    if wrong := disturbed.damage():
        return wrong
    if code := runs.ended(runs.start(command, root), LONGEST_S):
        return f"after the damage it ends with {code}: {runs.said(root)[-300:]}"
    for job, expected in outcome(calm).items():
        found = outcome(root).get(job, ({}, {}))
        for mine, right in zip(found, expected, strict=True):
            if wrong_keys := [key for key in right if mine.get(key) != right[key]]:
                key = wrong_keys[0]
                return f"{key} of {job}: {mine.get(key)} instead of {right[key]}"[:400]
    return "" if table(root) == table(calm) else f"the table differs:\n{table(root)}"


def run(first: int, last: int, until: float = float("inf")) -> list[Row]:
    """Each seed is a sweep that is disturbed and done again."""
    names = "main: SIGKILL, in a job", "worker: SIGSTOP for good", "a file of a finished run"
    rows = {name: Row(name, first, last) for name in names}
    whole, seed = Row("sweep, done again", first, last), first
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        calm = Path(name, "calm")
        calm.mkdir()
        command = runs.words(runs.random_policy(Path(name, "policy")), *JOBS)
        assert runs.ended(runs.start(command, calm), LONGEST_S) == 0, runs.said(calm)
        assert len(folders(calm)) == N_JOBS
        while seed < last and time.monotonic() < until:
            began = time.monotonic()
            try:
                wrong = trial(calm, command, Path(name, str(seed)), seed, rows)
            except AssertionError as error:
                wrong = str(error)
            took = time.monotonic() - began
            whole.count(seed, "finding" if wrong else "as undisturbed", wrong, seconds=took)
            seed += 1
    return played([whole, *rows.values()], seed)
