"""One evaluation's folder, read back, as far as the run got."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .files import (
    DamagedFileError,
    check_config,
    damaged_lines,
    read_config,
    read_lines,
    read_result,
    read_status,
    read_traceback,
)
from .folder import film_of
from .names import CONFIG, EPISODES, LOCK, RESULT, STATUS, TRACEBACK
from .schemas import EVALUATED, EVALUATION
from .schemas import RESULT as ANY_RESULT

FINISHED, UNREADABLE = "finished", "unreadable"


@dataclass(frozen=True)
class Run:
    """One evaluation's folder, as far as it got.

    Attributes:
        status: "finished", or why there is no whole result; UNREADABLE where a file is damaged.
        error: the last line of its traceback, or which file is damaged, and how.
    """

    folder: Path
    config: dict[str, Any]
    result: dict[str, Any]
    episodes: dict[int, dict[str, Any]]
    status: str
    error: str

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def whole(self) -> bool:
        """All its seeds ran: only such a run enters a comparison.

        The first episodes to end are the short ones, and those are the successes.
        """
        return bool(self.result) and all(s in self.episodes for s in self.seeds)

    @property
    def seeds(self) -> range:
        start: int = self.config.get("start_seed", 0)
        return range(start, start + self.config.get("n_episodes", 0))

    @cached_property
    def ok(self) -> dict[int, dict[str, Any]]:
        """The episodes that ran to their end; the others are errors, not failures."""
        known = ((s, self.episodes[s]) for s in self.seeds if s in self.episodes)
        return {s: e for s, e in known if e["status"] == "ok"}

    @property
    def success(self) -> dict[int, bool]:
        return {s: e["success"] for s, e in self.ok.items()}

    @property
    def score(self) -> dict[int, float]:
        return {s: e["score"] for s, e in self.ok.items()}

    @property
    def n_errors(self) -> int:
        return sum(s in self.episodes for s in self.seeds) - len(self.ok)

    def video(self, seed: int) -> Path | None:
        """Its film of a seed, where there is one."""
        return film_of(self.folder, self.episodes.get(seed, {}))

    def of(self, keys: Sequence[str]) -> str:
        """These settings as a text to compare."""
        return json.dumps([self.config.get(key) for key in keys], sort_keys=True)


def is_baseline(run: Run) -> bool:
    """A result compared with nothing is the study's unaccelerated arm."""
    return bool(run.result) and run.result.get("baseline") is None


def is_evaluation(run: Run) -> bool:
    """Other runners leave folders of the same kind."""
    return bool(run.config.get("runner", {}).get("name", "evaluate") == "evaluate")


def is_run(path: Path) -> bool:
    marks = (CONFIG, STATUS, TRACEBACK, ".hydra")
    return path.is_dir() and any((path / mark).exists() for mark in marks)


def read_run(folder: Path) -> Run:
    """Read what there is of a run; of one that is damaged, that it is `UNREADABLE`, and why.

    A damaged status alone takes no number away.
    """
    trace = read_traceback(folder / TRACEBACK).splitlines()
    try:
        config = read_config(folder / CONFIG) or {}
        run = Run(folder, config, {}, {}, "", trace[-1] if trace else "")
        evaluated = is_evaluation(run)
        if evaluated and (folder / CONFIG).exists():
            check_config(folder / CONFIG, config, EVALUATION)
        result = read_result(folder / RESULT, EVALUATED if evaluated else ANY_RESULT) or {}
        episodes = _recorded(folder, bool(result))
    except DamagedFileError as error:
        return Run(folder, _config(folder), {}, {}, UNREADABLE, str(error))
    run = replace(run, result=result, episodes=episodes)
    try:
        return replace(run, status=_status(folder, bool(result)))
    except DamagedFileError as error:
        return replace(run, status=UNREADABLE, error=str(error))


def _config(folder: Path) -> dict[str, Any]:
    """Of an evaluation that is damaged elsewhere: it tells which method has no numbers."""
    try:
        read_config(folder / CONFIG)
        return read_config(folder / CONFIG, EVALUATION) or {}
    except DamagedFileError:
        return {}


def _recorded(folder: Path, scored: bool) -> dict[int, dict[str, Any]]:
    """Its episodes, all of whose lines are whole; of a run with a result each has a score."""
    found = read_lines(folder)
    if found.damaged:
        raise DamagedFileError(damaged_lines(folder, found))
    for seed, record in found.records.items() if scored else ():
        if record["status"] == "ok" and "score" not in record:
            raise DamagedFileError(f"{folder / EPISODES} is damaged: seed {seed} has no score")
    return found.records


def _status(folder: Path, has_result: bool) -> str:
    """status.json says "running" of a killed run too; only a live one holds the lock."""
    said = read_status(folder / STATUS) or {"status": FINISHED if has_result else "not started"}
    status = str(said["status"])
    return "cut off" if status == "running" and not _locked(folder / LOCK) else status


def _locked(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
