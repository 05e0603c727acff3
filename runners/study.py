"""A study's folder as runs, with the strata they belong to and the baselines they have."""

from __future__ import annotations

import fcntl
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from .errors import UserError
from .store import CONFIG, LOCK, RESULT, STATUS, TRACEBACK, read_episodes

STRATUM = ("task", "noise_seed")
CONDITIONS = (*STRATUM, "policy_batch", "threads", "device", "engine")
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
        name = self.episodes.get(seed, {}).get("video")
        path = self.folder / name if name else None
        return path if path and path.exists() else None

    def of(self, keys: Sequence[str]) -> str:
        """These settings as a text to compare."""
        return json.dumps([self.config.get(key) for key in keys], sort_keys=True)


@dataclass(frozen=True)
class Study:
    """All evaluations of a folder, in the order of their strata and costs.

    Attributes:
        labels: {run's name: what sets its method apart from the study's other methods}.
        strata: {run's name: its task, and the checkpoint and noise seed where they differ}.
        others: folders of other runners, which are no part of a report.
    """

    folder: Path
    runs: list[Run]
    labels: dict[str, str]
    strata: dict[str, str]
    others: list[str]

    @property
    def whole(self) -> list[Run]:
        return [run for run in self.runs if run.whole]

    def baseline(self, run: Run) -> Run | None:
        """The unaccelerated run under the same conditions; None for itself and where there is none.

        A result that names no baseline may have been written before its baseline's.
        """
        if is_baseline(run):
            return None
        named = (run.result.get("baseline") or {}).get("folder")
        for other in self.whole:
            if other.name == named:
                return other
        fitting = [
            other
            for other in self.whole
            if is_baseline(other) and other.of(CONDITIONS) == run.of(CONDITIONS)
        ]
        return fitting[0] if len(fitting) == 1 else None


def is_baseline(run: Run) -> bool:
    """A result compared with nothing is the study's unaccelerated arm."""
    return bool(run.result) and run.result.get("baseline") is None


def read_study(folder: Path) -> Study:
    """Read every run of a study.

    Raises:
        UserError: the folder is not there, or holds no evaluation.
    """
    if not folder.is_dir():
        raise UserError(f"the study must be a folder with runs, there is none at {folder}")
    found = sorted(path for path in folder.iterdir() if _is_run(path))
    runs, others = [], []
    for path in found:
        run = read_run(path)
        if run.config.get("runner", {}).get("name", "evaluate") == "evaluate":
            runs.append(run)
        else:
            others.append(path.name)
    if not runs:
        raise UserError(f"the study must hold at least one evaluation, there is none in {folder}")
    strata = _strata(runs)
    runs.sort(key=lambda r: (strata[r.name], not is_baseline(r), _cache(r), -_cost(r)))
    return Study(folder, runs, _labels(runs, strata), strata, others)


def _is_run(path: Path) -> bool:
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


def _cost(run: Run) -> float:
    return float(run.result.get("flops", {}).get("query", 0))


def _cache(run: Run) -> str:
    return str(run.config.get("cache", {}).get("name", ""))


def _task(run: Run) -> str:
    return str(run.config.get("task", {}).get("name") or run.name.split("_")[0])


def _strata(runs: Sequence[Run]) -> dict[str, str]:
    """Tasks; what else differs between the strata of a task is added where it does."""
    names: dict[str, str] = {}
    for run in runs:
        mine = [other for other in runs if _task(other) == _task(run) and other.config]
        parts = [_task(run)]
        if run.config and len({r.config["task"].get("checkpoint") for r in mine}) > 1:
            parts.append(str(run.config["task"].get("checkpoint")))
        if run.config and len({r.config.get("noise_seed") for r in mine}) > 1:
            parts.append(f"noise seed {run.config.get('noise_seed')}")
        names[run.name] = ", ".join(parts)
    return names


def _labels(runs: Sequence[Run], strata: Mapping[str, str]) -> dict[str, str]:
    """Names of methods: the same one in every stratum, no two the same in one."""
    parts = {run.name: _choices(run, runs) for run in runs}
    labels = {}
    for run in runs:
        mine = parts[run.name]
        peers = [parts[r.name] for r in runs if parts[r.name]["cache"] == mine["cache"]]
        differing = [k for k in mine if k != "cache" and len({p.get(k) for p in peers}) > 1]
        words = [mine["cache"], *(_said(key, mine[key]) for key in differing)]
        labels[run.name] = ", ".join(word for word in words if word)
    seen = Counter((strata[name], label) for name, label in labels.items())
    return {
        name: label if seen[strata[name], label] == 1 else f"{label} ({name.rpartition('_')[2]})"
        for name, label in labels.items()
    }


def _choices(run: Run, runs: Sequence[Run]) -> dict[str, str]:
    """What a method is made of, flat, as texts; the sampler only where it is not the baseline's."""
    if not run.config:  # it failed before it wrote one: its folder's name says this much
        return {"cache": "_".join(run.name.split("_")[1:-3]) or run.name}
    found = {"cache": str(run.config["cache"]["name"])}
    for group in ("cache", "quant", "engine"):
        node = run.config.get(group) or {}
        found |= {f"{group}.{k}": str(v) for k, v in node.items() if (group, k) != ("cache", "name")}
    plain = [_sampler(r) for r in runs if is_baseline(r) and r.of(STRATUM) == run.of(STRATUM)]
    found["sampler"] = "" if _sampler(run) in plain else _sampler(run)
    return found | {k: str(run.config.get(k)) for k in ("threads", "policy_batch", "device")}


def _sampler(run: Run) -> str:
    sampler = run.config.get("sampler") or {}
    return f"{sampler.get('kind')}-{sampler.get('steps')}" if sampler else ""


def _said(key: str, value: str) -> str:
    """A setting in few words: "10 steps", "even", "ddim-16", "threads 2"."""
    field = key.rpartition(".")[2]
    spoken = {
        "quant.name": "" if value == "none" else value,
        "cache.steps": f"{value} steps",
        **dict.fromkeys(("cache.spacing", "engine.name", "sampler", "device"), value),
    }
    return spoken.get(key, f"{field} {value}")
