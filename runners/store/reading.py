"""One evaluation's folder, read back, as far as the run got."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from .folder import CONFIG, LOCK, RESULT, STATUS, TRACEBACK, film_of, read_episodes

FINISHED = "finished"


@dataclass(frozen=True)
class Run:
    """One evaluation's folder, as far as it got.

    Attributes:
        status: "finished", or why there is no whole result.
        error: the last line of its traceback.
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
    """Read what there is of a run."""
    path = folder / CONFIG
    config = OmegaConf.to_container(OmegaConf.load(path)) if path.exists() else {}
    assert isinstance(config, dict)
    trace = folder / TRACEBACK
    lines = trace.read_text().strip().splitlines() if trace.exists() else []
    result = _json(folder / RESULT)
    return Run(
        folder=folder,
        config={str(key): value for key, value in config.items()},
        result=result,
        episodes=read_episodes(folder),
        status=_status(folder, bool(result)),
        error=lines[-1] if lines else "",
    )


def _json(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return read


def _status(folder: Path, has_result: bool) -> str:
    """status.json says "running" of a killed run too; only a live one holds the lock."""
    status = str(_json(folder / STATUS).get("status", FINISHED if has_result else "not started"))
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
