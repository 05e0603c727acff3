"""Rollouts to datasets: episodes are kept as they end, and put together in the order of seeds."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from hydra.errors import CompactHydraException
from tqdm import tqdm

from accel import accelerated

from . import lerobot_folder, robomimic_file
from .demos import Demo, DemoSet
from .evaluate import Acting, evaluate
from .expert import EXPERTS
from .job import describe, versions
from .metrics import wilson
from .settings import RunnerConfig, Settings, check_writable
from .store import TRAJECTORIES, RunStore
from .trajectory import Trajectory

if TYPE_CHECKING:
    from .prepare import Job

log = logging.getLogger(__name__)


class NothingToWriteError(CompactHydraException):
    """No episode is worth keeping: a failure in one line, exit code 1."""


class Format(NamedTuple):
    """How a dataset is written, and which of our runs wrote the one that is there, if any."""

    default: str
    package: str
    write: Callable[[Path, DemoSet], None]
    owner: Callable[[Path], str | None]


FORMATS = {
    "robomimic": Format("dataset.hdf5", "h5py", robomimic_file.write, robomimic_file.owner),
    "lerobot": Format("dataset", "pyarrow", lerobot_folder.write, lerobot_folder.owner),
}


@dataclass
class CollectConfig(RunnerConfig):
    """Where episodes come from and how they are written; conf/runner/collect.yaml says more."""

    name: str = "collect"
    source: str = "expert"
    noise: float = 0.0
    success_only: bool = True
    format: str = "robomimic"
    start_seed: int = 0
    test_seeds: bool = False
    valid_share: float = 0.1
    out: str | None = None

    def __post_init__(self) -> None:
        for key, table in (("source", SOURCES), ("format", FORMATS)):
            if getattr(self, key) not in table:
                raise ValueError(
                    f"runner.{key} must be one of {', '.join(table)}, got {getattr(self, key)!r}"
                )
        if not 0.0 <= self.noise < np.inf:
            raise ValueError(f"runner.noise must be at least 0, got {self.noise}")
        if not 0.0 <= self.valid_share < 1.0:
            raise ValueError(
                f"runner.valid_share must be from 0 to below 1, got {self.valid_share}"
            )
        if self.start_seed < 0:
            raise ValueError(f"runner.start_seed must be at least 0, got {self.start_seed}")

    @property
    def needs_policy(self) -> bool:
        return self.source == "policy"

    def identity(self) -> dict[str, Any]:
        return {"runner": self.name, "source": self.source, "noise": self.noise}

    def seeds(self, settings: Settings) -> range:
        return range(self.start_seed, self.start_seed + settings.n_episodes)

    def check(self, job: Job) -> None:
        task, seeds = job.task, self.seeds(job.settings)
        if self.source == "expert":
            if task.name not in EXPERTS:
                raise ValueError(
                    f"runner.source=expert is there for task={', '.join(EXPERTS)}, "
                    f"got task={task.name}"
                )
            if task.action_dim != EXPERTS[task.name].action_dim:
                raise ValueError("runner.source=expert acts relatively, got task.abs_action=true")
            for group in ("cache", "quant"):
                if (choice := getattr(job, group).name) != "none":
                    raise ValueError(
                        f"{group} must be none with runner.source=expert, got {choice!r}"
                    )
        if seeds[-1] >= job.settings.start_seed and not self.test_seeds:
            raise ValueError(
                f"runner.start_seed: seeds {seeds[0]} to {seeds[-1]} reach the test seeds (from "
                f"start_seed={job.settings.start_seed}); runner.test_seeds=true allows it"
            )
        form = FORMATS[self.format]
        if find_spec(form.package) is None:
            raise ValueError(
                f'runner.format={self.format} needs {form.package}: pip install "skipstep[data]"'
            )
        if self.out is not None:
            out = Path(self.out)
            if out.exists() and form.owner(out) != job.fingerprint:
                raise ValueError(f"runner.out must be new or of the same run, got {out}: exists")
            check_writable(out.absolute().parent)


@contextmanager
def _expert(job: Job) -> Iterator[Acting]:
    yield EXPERTS[job.task.name]()


@contextmanager
def _policy(job: Job) -> Iterator[Acting]:
    describe(job)
    with accelerated(job.policy, job.cache, job.quant, job.engine.name) as fast:
        yield fast


SOURCES: dict[str, Callable[[Job], AbstractContextManager[Acting]]] = {
    "expert": _expert,
    "policy": _policy,
}


def episode_sigma(noise_seed: int, seed: int, noise: float) -> float:
    """The deviation of the action noise of one episode, from 0 to `noise`."""
    return float(np.random.default_rng((noise_seed, seed)).uniform(0.0, noise))


def disturbance(noise_seed: int, noise: float) -> Callable[[int, int, np.ndarray], np.ndarray]:
    """(seed, query, actions) -> noisy actions; a function of these and the noise seed alone."""

    def disturb(seed: int, query: int, actions: np.ndarray) -> np.ndarray:
        sigma = episode_sigma(noise_seed, seed, noise)
        random = np.random.default_rng((noise_seed, seed, query + 1))
        return actions + random.normal(0.0, sigma, actions.shape)

    return disturb if noise else lambda seed, query, actions: actions


def run_collect(job: Job, folder: Path) -> dict[str, Any]:
    """Run the episodes that are missing, write the dataset, write and return the result."""
    store = RunStore(folder, job.config, job.settings.force)
    try:
        with store.running():
            return _run(job, store)
    finally:
        store.close()


def _run(job: Job, store: RunStore) -> dict[str, Any]:
    started = time.perf_counter()
    torch.set_num_threads(job.settings.threads)
    config = cast(CollectConfig, job.runner)
    seeds = config.seeds(job.settings)
    _episodes(job, config, store, seeds)
    records = [store.episodes[seed] for seed in seeds]
    ok = [r for r in records if r["status"] == "ok"]
    kept = [r for r in ok if r["success"] or not config.success_only]
    if not kept:
        raise NothingToWriteError(
            f"nothing to write: 0 of {len(records)} episodes succeeded, {len(records) - len(ok)} "
            "had errors; runner.success_only=false keeps failures"
        )
    form = FORMATS[config.format]
    path = Path(config.out) if config.out else store.folder / form.default
    sigma = {
        r["seed"]: episode_sigma(job.settings.noise_seed, r["seed"], config.noise) for r in kept
    }
    demos = [
        Demo(r["seed"], r["success"], sigma[r["seed"]], _file(store.folder, r["seed"]))
        for r in kept
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    form.write(path, DemoSet(job.task, demos, config.valid_share, job.fingerprint))
    successes = sum(r["success"] for r in ok)
    result = {
        "task": job.task.name,
        "runner": config.name,
        "source": config.source,
        "noise": config.noise,
        "dataset": str(path),
        "format": config.format,
        "n_demos": len(kept),
        "n_transitions": sum(r["n_steps"] for r in kept),
        "success_rate": successes / len(ok),
        "success_interval": wilson(successes, len(ok)),
        "n_episodes": len(records),
        "n_success": successes,
        "n_errors": len(records) - len(ok),
        "errors": [{"seed": r["seed"], "error": r["error"]} for r in records if r not in ok],
        "wall_s": round(time.perf_counter() - started, 1),
        "fingerprint": job.fingerprint,
        "command": shlex.join(["python", "run.py", *sys.argv[1:]]),
        "versions": versions(),
    }
    store.write_result(result)
    return result


def _file(folder: Path, seed: int) -> Path:
    return folder / TRAJECTORIES / f"{seed}.npz"


def _episodes(job: Job, config: CollectConfig, store: RunStore, seeds: Sequence[int]) -> None:
    again = store.missing(seeds)
    missing = [s for s in seeds if s in again or not _file(store.folder, s).exists()]
    if not missing:
        log.info("all %d episodes are there: %s", len(seeds), store.folder)
        return
    (store.folder / TRAJECTORIES).mkdir(exist_ok=True)
    bar = tqdm(total=len(seeds), desc=job.name, unit="episode", disable=None)
    bar.update(len(seeds) - len(missing))
    with bar, SOURCES[config.source](job) as acting:
        for episode in evaluate(
            acting,
            job.task,
            missing,
            job.n_envs,
            job.settings.noise_seed,
            policy_batch=job.settings.policy_batch if config.needs_policy else 1,
            disturb=disturbance(job.settings.noise_seed, config.noise),
            record=True,
        ):
            if isinstance(episode.trajectory, Trajectory):
                episode.trajectory.save(_file(store.folder, episode.seed))
            store.append(episode.record())
            bar.update()


def render(result: Mapping[str, Any], folder: Path) -> str:
    """A result as lines of text for a terminal."""
    title = f"{result['task']}  {result['source']}, noise {result['noise']:g}"
    low, high = result["success_interval"]
    rows = {
        "success": f"{result['success_rate']:.3f}  [{low:.3f}, {high:.3f}]  "
        f"({result['n_success']} of {result['n_episodes'] - result['n_errors']})",
        "errors": f"seeds {[e['seed'] for e in result['errors']]}" if result["errors"] else "none",
        "dataset": f"{result['n_demos']} episodes, {result['n_transitions']} steps",
        result["format"]: result["dataset"],
        "files": str(folder),
    }
    lines = [f"{name:<9}  {value}" for name, value in rows.items()]
    return "\n".join(["", title, "-" * len(title), *lines])
