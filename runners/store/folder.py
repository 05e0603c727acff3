"""The run folder: what is written when, and how a run that was cut off goes on."""

from __future__ import annotations

import fcntl
import json
import os
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from skipstep.observations import Arrays, joined, n_bytes, n_rows, take

from .arrays import arrays_of, obs_in
from .atomic import replacing, write_whole

EPISODES, RESULT, STATUS, CONFIG = "episodes.jsonl", "result.json", "status.json", "config.yaml"
OBSERVATIONS, TRACEBACK, LOCK, TIME = "observations.npz", "traceback.txt", ".lock", "time.json"
MERGING, SHARDS = ".lock.merge", "shards"
TRAINING = ("metrics.jsonl", "checkpoints", "policy")
TRAJECTORIES, BRANCH_ERRORS, PLAN_DIGEST = "trajectories", "branch_errors.json", "plan.txt"
SET_ASIDE = (
    EPISODES,
    RESULT,
    STATUS,
    TIME,
    PLAN_DIGEST,
    OBSERVATIONS,
    TRAJECTORIES,
    BRANCH_ERRORS,
    *TRAINING,
    SHARDS,
    "videos",
    "wandb",
)
MAX_OBSERVATIONS, MAX_OBSERVATION_BYTES, LEAST_OBSERVATIONS = 128, 2**25, 8


class StoreError(ValueError):
    """The folder holds something else, or is in use."""


def dump(record: dict[str, Any]) -> str:
    """JSON with one line per top-level key."""
    lines = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in record.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_episodes(folder: Path) -> dict[int, dict[str, Any]]:
    """{seed: record}, the newest of each seed; a line that was cut off is not a record."""
    path = folder / EPISODES
    if not path.exists():
        return {}
    whole = path.read_bytes().rpartition(b"\n")[0]
    records = [json.loads(line) for line in whole.splitlines() if line]
    return {record["seed"]: record for record in records}


def read_observations(folder: Path) -> Arrays:
    """What the policy saw in the first queries that are kept, (n, n_obs_steps, ...) each array."""
    path = folder / OBSERVATIONS
    if not path.exists():
        return np.empty((0,))
    with np.load(path) as file:
        return obs_in(file)


def most_observations(query: Arrays) -> int:
    """How many queries are kept of a run: as many as are measured, fewer where images are large.

    Args:
        query: one of them.
    """
    fitting = MAX_OBSERVATION_BYTES // max(n_bytes(query), 1)
    return min(MAX_OBSERVATIONS, max(LEAST_OBSERVATIONS, fitting))


def film_of(folder: Path, record: Mapping[str, Any]) -> Path | None:
    """The film of an episode of this run, where there is one."""
    path = folder / record["video"] if record.get("video") else None
    return path if path and path.exists() else None


def note_failure(folder: Path) -> None:
    """Keep the traceback of what is being handled, unless the run kept it."""
    if not (folder / TRACEBACK).exists():
        write_whole(folder / TRACEBACK, traceback.format_exc())


class RunStore:
    """A run folder opened for one fingerprint.

    Args:
        folder: made where it is missing.
        config: written to it; `fingerprint` in it is the run's.
        force: start anew.
        lock: LOCK, or MERGING: the process in charge of a run whose shards are running.

    Raises:
        StoreError: the folder belongs to another fingerprint, or another process is running in it.
    """

    def __init__(
        self, folder: Path, config: dict[str, Any], force: bool = False, lock: str = LOCK
    ) -> None:
        self.folder = folder
        self._n_observations: int | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / lock).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | (0 if lock == MERGING else fcntl.LOCK_NB))
        except OSError:
            raise StoreError(f"another process is running in {folder}") from None
        if (folder / CONFIG).exists():
            there = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
            if not isinstance(there, dict) or there.get("fingerprint") != config["fingerprint"]:
                raise StoreError(
                    f"{folder} holds another run (fingerprints differ): choose another folder"
                )
        if force:
            self._set_aside()
        write_whole(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(config)))
        self.episodes = read_episodes(folder)

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        self._lock.close()

    def _set_aside(self) -> None:
        """`force` starts anew and loses nothing: what was there moves to previous/<n>."""
        names = [n for n in SET_ASIDE if (self.folder / n).exists()]
        if names:
            previous = self.folder / "previous"
            target = previous / str(sum(1 for _ in previous.glob("*")))
            target.mkdir(parents=True)
            for name in names:
                os.replace(self.folder / name, target / name)

    def missing(self, seeds: Sequence[int]) -> list[int]:
        """Seeds without an episode that ran to its end; errors are tried again."""
        return [s for s in seeds if self.episodes.get(s, {}).get("status") != "ok"]

    def keep_to_plan(self, digest: str) -> None:
        """All episodes of a folder run under one plan, though its calibration may be made anew.

        Raises:
            StoreError: there are episodes of another plan.
        """
        path = self.folder / PLAN_DIGEST
        ran = (self.result() or {}).get("stats", {}).get("plan")
        there = path.read_text() if path.exists() else ran
        if self.episodes and there not in (None, digest):
            raise StoreError(
                f"the episodes in {self.folder} ran under the plan {there}, which is {digest} now "
                "(another calibration or version): force=true starts anew"
            )
        write_whole(path, digest)

    def result(self) -> dict[str, Any] | None:
        path = self.folder / RESULT
        return json.loads(path.read_text()) if path.exists() else None

    def append(self, record: dict[str, Any]) -> None:
        """Add an episode; it is on disk when this returns."""
        path = self.folder / EPISODES
        with path.open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # the last line was cut off by a crash
                    file.truncate(path.read_bytes().rfind(b"\n") + 1)
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.episodes[record["seed"]] = record

    def observations(self) -> Arrays:
        """(n, n_obs_steps, ...) recorded observations, for latency."""
        return read_observations(self.folder)

    def room_for(self, query: Arrays) -> int:
        """How many more queries like this one would be kept."""
        if self._n_observations is None:
            self._n_observations = n_rows(self.observations())
        return max(0, most_observations(query) - self._n_observations)

    def add_observations(self, observations: Arrays) -> None:
        """Keep the first observations that the policy saw."""
        room = self.room_for(take(observations, 0)) if n_rows(observations) else 0
        if not room:
            return
        known, new = self.observations(), take(observations, slice(room))
        merged = joined([known, new]) if n_rows(known) else new
        with replacing(self.folder / OBSERVATIONS) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays_of(merged))
        self._n_observations = n_rows(merged)

    def write_result(self, result: dict[str, Any]) -> None:
        write_whole(self.folder / RESULT, dump(result))

    @contextmanager
    def running(self) -> Iterator[None]:
        """status.json while a run goes on and after it, and the traceback of a failure."""
        started = time.time()

        def status(name: str) -> None:
            now = {"status": name, "pid": os.getpid(), "started": started, "updated": time.time()}
            write_whole(self.folder / STATUS, dump(now))

        (self.folder / TRACEBACK).unlink(missing_ok=True)
        status("running")
        try:
            yield
        except KeyboardInterrupt:
            status("interrupted")
            raise
        except BaseException:
            note_failure(self.folder)
            status("failed")
            raise
        status("finished")
