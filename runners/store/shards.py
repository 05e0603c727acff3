"""Shards of a run: each process plays its share of the seeds in a folder of its own."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipstep.whole_files import write_whole

from .files import (
    StoreError,
    or_nothing,
    read_episodes,
    read_observations,
    read_plan_digest,
    read_time,
)
from .folder import RunStore, dump
from .names import EPISODES, LOCK, OBSERVATIONS, PLAN_DIGEST, SHARDS, TIME


@dataclass(frozen=True)
class Shard:
    """Share `index` (from 1 on) of `count`."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "i/n".

        Raises:
            ValueError: it is something else.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise ValueError(f"shard must be i/n with i from 1 to n, got {text!r}")
        return cls(int(index), int(count))

    def share(self, seeds: Sequence[int]) -> Sequence[int]:
        """Every count-th seed: the shares of a run that is extended keep what they have."""
        return seeds[self.index - 1 :: self.count]


def within(name: str, shard: str | None) -> str:
    """The folder of a run, or of a shard of it, in its study."""
    if shard is None:
        return name
    part = Shard.parse(shard)
    return f"{name}/{SHARDS}/{part.index}of{part.count}"


def whole_run(folder: Path) -> Path:
    """The run's folder, of a shard's or of its own."""
    return folder.parents[1] if folder.parent.name == SHARDS else folder


def shards_of(folder: Path) -> list[Path]:
    return sorted((folder / SHARDS).glob("*of*"))


@contextmanager
def beside_other_shards(folder: Path) -> Iterator[None]:
    """While shards play, nobody plays the whole run.

    Raises:
        StoreError: somebody does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(f"another process is running in {folder}") from None
        yield


def known_episodes(folder: Path) -> dict[int, dict[str, Any]]:
    """{seed: record} of a run and of all its shards; of two records, one that ran to its end."""
    found: dict[int, dict[str, Any]] = {}
    for part in (*shards_of(folder), folder):
        for seed, record in read_episodes(part).items():
            if found.get(seed, {}).get("status") != "ok":
                found[seed] = record
    return dict(sorted(found.items()))


def merge(store: RunStore) -> None:
    """Bring everything that the shards have into the run's own folder; again changes nothing.

    Raises:
        StoreError: the shards ran under different plans.
    """
    folder, parts = store.folder, shards_of(store.folder)
    found = (or_nothing(read_plan_digest, part / PLAN_DIGEST) for part in parts)
    plans = {plan for plan in found if plan}
    if len(plans) > 1:
        raise StoreError(
            f"the shards in {folder} ran under different plans ({', '.join(sorted(plans))}): "
            "force=true without shard starts anew"
        )
    episodes = known_episodes(folder)
    if episodes == store.episodes:
        return
    for plan in plans:
        store.keep_to_plan(plan)
    for part in parts:
        for video in (part / "videos").glob("*.mp4"):
            (folder / "videos").mkdir(exist_ok=True)
            os.replace(video, folder / "videos" / video.name)
    for part in parts:
        if (seen := or_nothing(read_observations, part / OBSERVATIONS)) is not None:
            store.add_observations(seen)
    write_whole(folder / TIME, dump(_seconds([folder, *parts])))
    write_whole(folder / EPISODES, "".join(json.dumps(e) + "\n" for e in episodes.values()))
    store.episodes = episodes
    for part in parts:  # counted now
        (part / TIME).unlink(missing_ok=True)
        (part / OBSERVATIONS).unlink(missing_ok=True)


def _seconds(folders: Iterable[Path]) -> dict[str, float]:
    total: dict[str, float] = {}
    for folder in folders:
        for part, seconds in (or_nothing(read_time, folder / TIME) or {}).items():
            total[part] = round(total.get(part, 0.0) + seconds, 3)
    return total
