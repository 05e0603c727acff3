"""The run folder: what is written when, and how a run that was cut off goes on."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from skipstep.observation_arrays import arrays_of
from skipstep.observations import Arrays, joined, n_bytes, n_rows, take
from skipstep.whole_files import remove_leftovers, replacing, write_whole

from .files import DamagedFileError as DamagedFileError
from .files import StoreError as StoreError
from .files import (
    damaged_lines,
    or_nothing,
    read_config,
    read_lines,
    read_observations,
    read_plan_digest,
    read_result,
    read_status,
)
from .files import read_episodes as read_episodes
from .kinds import Kind, record
from .names import (
    CONFIG,
    EPISODES,
    LOCK,
    MERGING,
    OBSERVATIONS,
    PLAN_DIGEST,
    PREVIOUS,
    RESULT,
    SET_ASIDE,
    SHARDS,
    STATUS,
)
from .schemas import RESULT as ANY_RESULT
from .status import dump as dump
from .status import note_failure as note_failure
from .status import running

log = logging.getLogger(__name__)

MAX_OBSERVATIONS, MAX_OBSERVATION_BYTES, LEAST_OBSERVATIONS = 128, 2**25, 8


def most_observations(query: Arrays) -> int:
    """How many queries are kept of a run: as many as are measured, fewer where images are large.

    Args:
        query: one of them.
    """
    fitting = MAX_OBSERVATION_BYTES // max(n_bytes(query), 1)
    return min(MAX_OBSERVATIONS, max(LEAST_OBSERVATIONS, fitting))


def film_of(folder: Path, record: Mapping[str, Any]) -> Path | None:
    """The film of an episode of this run, where there is one inside of its folder."""
    if not record.get("video"):
        return None
    path = folder / record["video"]
    inside = path.resolve().is_relative_to(folder.resolve())
    return path if inside and path.is_file() else None


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
        try:
            self._check_identity(config["fingerprint"], force)
        except StoreError:
            self.close()
            raise
        remove_leftovers(folder)
        if force:
            self._set_aside(SET_ASIDE)
        write_whole(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(config)))
        self.episodes = self._mended_episodes()

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        self._lock.close()

    def _check_identity(self, fingerprint: str, force: bool) -> None:
        """Refuse a folder of another run, or of one that cannot be told."""
        try:
            there = read_config(self.folder / CONFIG, record({}))
        except DamagedFileError as error:
            if not force and read_lines(self.folder).records and not self._is_named(fingerprint):
                raise StoreError(
                    f"{error}, so whose episodes are in the folder is not known: force=true sets "
                    "them aside"
                ) from error
            log.warning("%s; it is written anew", error)
            return
        if there is not None and there.get("fingerprint") != fingerprint:
            raise StoreError(
                f"{self.folder} holds another run (fingerprints differ): choose another folder"
            )

    def _is_named(self, fingerprint: str) -> bool:
        """Whether something besides config.yaml says that the folder is this run's."""
        run = self.folder.parents[1] if self.folder.parent.name == SHARDS else self.folder
        result = self.result() or {}
        named = run.resolve().name.rpartition("_")[2]
        return fingerprint in (named, result.get("fingerprint"))

    def _mended_episodes(self) -> dict[int, dict[str, Any]]:
        """The whole lines of episodes.jsonl; a file with others moves to previous/<n>."""
        found = read_lines(self.folder)
        if found.damaged:
            self._set_aside([EPISODES])
            kept = "".join(json.dumps(record) + "\n" for record in found.records.values())
            write_whole(self.folder / EPISODES, kept)
            words = "%s; its seeds are played again, and the damaged file is in %s"
            log.warning(words, damaged_lines(self.folder, found), self.folder / PREVIOUS)
        return found.records

    def _set_aside(self, files: Sequence[str]) -> None:
        """Nothing is lost: what was there moves to previous/<n>."""
        names = [n for n in files if (self.folder / n).exists()]
        if names:
            previous = self.folder / PREVIOUS
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
        ran = (self.result() or {}).get("stats", {}).get("plan")
        there = or_nothing(read_plan_digest, self.folder / PLAN_DIGEST) or ran
        if self.episodes and there not in (None, digest):
            raise StoreError(
                f"the episodes in {self.folder} ran under the plan {there}, which is {digest} now "
                "(another calibration or version): force=true starts anew"
            )
        write_whole(self.folder / PLAN_DIGEST, digest)

    def result(self, kind: Kind = ANY_RESULT) -> dict[str, Any] | None:
        """What the run ended with; None where it did not, or left something damaged."""
        return or_nothing(lambda path: read_result(path, kind), self.folder / RESULT)

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
        found = or_nothing(read_observations, self.folder / OBSERVATIONS)
        return np.empty((0,)) if found is None else found

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

    def running(self) -> AbstractContextManager[None]:
        """status.json while a run goes on and after it, and the traceback of a failure."""
        return running(self.folder)

    def forget_other_status(self) -> None:
        """Of a run that is finished: a status that says otherwise, or that cannot be read, goes.

        A process that was killed right after it wrote the result leaves one.
        """
        path = self.folder / STATUS
        try:
            said = read_status(path)
        except DamagedFileError:
            said = {"status": "damaged"}
        if said is not None and said["status"] != "finished":
            log.warning("%s was %s, and the run is finished", path, said["status"])
            path.unlink()
