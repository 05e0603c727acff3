"""Demonstrations in memory, checked once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipstep.observations import STATE, Arrays, ObservationSpec, each

from .dataset_files import detect_kind, reader
from .episode import DatasetError, Episode
from .episode_checks import Floats, check_episode
from .observation_order import Field, column_order, says_nothing
from .pictures import CACHE_MB, Cache, Pictures
from .wanted import Wanted

log = logging.getLogger(__name__)

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Demonstrations:
    """Episodes one after the other.

    Attributes:
        obs: (n_steps, obs_dim); where an observation is several arrays, a mapping of our names to
            (n_steps, d) numbers and to `Pictures`.
        action: (n_steps, action_dim).
        ends: (n_episodes,) where each episode ends.
        names: file and name of each episode, for messages.
        sources: (n_episodes,) episodes with the same number are variants of one demonstration, and
            are never on both sides of a split.
        splits: (n_episodes,) "train", "valid" or "" where the file does not say.
        environments: files, with what each says of the environment that it comes from, see
            `Episode`.
        orders: numbers of the files whose observations were sorted, with the columns taken.
    """

    obs: Arrays
    action: Floats
    ends: Integers
    names: tuple[str, ...]
    sources: Integers
    splits: tuple[str, ...]
    environments: tuple[tuple[str, Any], ...] = ()
    orders: tuple[tuple[int, tuple[int, ...]], ...] = ()

    @property
    def numbers(self) -> dict[str, Floats]:
        """The arrays of numbers of an observation, by our names."""
        obs = self.obs if isinstance(self.obs, Mapping) else {STATE: self.obs}
        return {name: array for name, array in obs.items() if not isinstance(array, Pictures)}

    @property
    def state(self) -> Floats:
        """(n_steps, d), without numbers where an observation has no `state`."""
        found: Floats = self.numbers.get(STATE, np.empty((len(self.action), 0), np.float32))
        return found

    def converted(self, state: Floats, action: Floats) -> Demonstrations:
        """These with another `state` and other actions."""
        if not isinstance(self.obs, Mapping):
            return replace(self, obs=state, action=action)
        changed = {STATE: state} if STATE in self.obs else {}
        return replace(self, obs={**self.obs, **changed}, action=action)

    def episode(self, number: int) -> Arrays:
        """The observations of one episode; images stay in their files."""
        steps = slice(self.starts[number], self.ends[number])
        return each(
            lambda array: array.episode(number) if isinstance(array, Pictures) else array[steps],
            self.obs,
        )

    @property
    def starts(self) -> Integers:
        return np.concatenate([[0], self.ends[:-1]])

    def rows(self, episodes: Integers) -> Integers:
        """The steps of some episodes."""
        spans = [np.arange(self.starts[e], self.ends[e]) for e in episodes]
        return np.concatenate(spans) if spans else np.empty(0, np.int64)


def read_dataset(
    paths: Iterable[str | Path],
    kind: str = "auto",
    obs_keys: Iterable[str] | None = None,
    parts: Mapping[str, int] | None = None,
    spec: ObservationSpec | None = None,
    cache_mb: float = CACHE_MB,
) -> Demonstrations:
    """Read and check files of demonstrations; images stay where they are until they are needed.

    Args:
        paths: of one kind or several.
        kind: one of READERS, or auto: by the file's name.
        obs_keys: the fields that make an observation, or its `state`, in this order; None is the
            usual ones.
        parts: names and lengths of the task's `state`: numbers that have these names in the file
            are sorted, or refused; None: they are taken as they come.
        spec: of the task's observation; None: one array of any length, at any rate.
        cache_mb: of images that are kept, in megabytes.

    Raises:
        DatasetError: in one line with the file, the episode and the field.
    """
    episodes: list[Episode] = []
    environments: list[tuple[str, Any]] = []
    orders: dict[int, tuple[int, ...]] = {}
    wanted = Wanted(None if obs_keys is None else tuple(obs_keys), spec, Cache(cache_mb))
    for number, path in enumerate(map(Path, paths)):
        found = list(reader(detect_kind(path) if kind == "auto" else kind)(path, wanted))
        if not found:
            raise DatasetError(f"{path}: no episodes in it")
        environments.append((str(path), found[0].environment))
        order = _order(path, found, parts) if parts and found[0].fields else None
        if order is not None:
            orders[number] = tuple(order)
        for index, episode in enumerate(found):
            if order is not None:
                episode.obs = episode.obs[:, order]
            check_episode(episode, episodes[0] if episodes else found[0], wanted)
            if episode.source is None:
                episode.source = (number, index)
            episodes.append(episode)
    if not episodes:
        raise DatasetError("no dataset given")
    if any(e.derived for e in episodes):  # then a number means the same in every file
        sources = [(0, e.source[1]) for e in episodes if e.source]
    else:
        sources = [e.source for e in episodes if e.source]
    known = {source: n for n, source in enumerate(dict.fromkeys(sources))}
    return Demonstrations(
        obs=_observations(episodes, wanted),
        action=np.concatenate([e.action for e in episodes]),
        ends=np.cumsum([len(e.action) for e in episodes], dtype=np.int64),
        names=tuple(e.name for e in episodes),
        sources=np.array([known[s] for s in sources], np.int64),
        splits=tuple(e.split for e in episodes),
        environments=tuple(environments),
        orders=tuple(orders.items()),
    )


def _observations(episodes: list[Episode], wanted: Wanted) -> Arrays:
    """All steps; a mapping in the order of the task's arrays where there are several."""
    state = np.concatenate([e.obs for e in episodes])
    if wanted.spec is None or wanted.spec.single:
        return state
    arrays: dict[str, Any] = {STATE: state} if STATE in wanted.spec else {}
    for name in wanted.numbers:
        arrays[name] = np.concatenate([e.arrays[name] for e in episodes])
    for name, array in wanted.images.items():
        clips, names = [e.clips[name] for e in episodes], [f"{e.name}: {name}" for e in episodes]
        arrays[name] = Pictures(clips, names, array.shape, wanted.cache)
        _ = arrays[name][0]  # if it is not what it is said to be, it is not so from the start
    return {name: arrays[name] for name in wanted.spec}


def _order(path: Path, episodes: list[Episode], parts: Mapping[str, int]) -> list[int] | None:
    """The columns that put a file's observations in the task's order, see `column_order`."""
    fields = episodes[0].fields
    for episode in episodes:
        if episode.fields != fields and _width(episode.fields) == _width(fields):
            raise DatasetError(
                f"{episode.name}: observations are made of {_shown(episode.fields)}, "
                f"those of {episodes[0].name} of {_shown(fields)}"
            )
    try:
        order = column_order(fields, parts)
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from error
    wanted = ", ".join(parts)
    if order is not None:
        log.info("%s: observations are sorted by their names, to %s", path, wanted)
    elif says_nothing(fields, parts):
        log.warning(
            "%s: no number of an observation has a name that is known (%s): they are taken in the "
            "order of the file",
            path,
            wanted,
        )
    return order


def _width(fields: Iterable[Field]) -> int:
    return sum(field.width for field in fields)


def _shown(fields: Iterable[Field]) -> str:
    return ", ".join(f"{field.key} ({field.width})" for field in fields)


def check_finite(data: Demonstrations) -> None:
    """Refuse what a conversion made infinite.

    Raises:
        DatasetError: with the file, the episode and the field.
    """
    state = {"obs": data.state} if STATE in data.numbers else {}
    for field, values in {**state, "action": data.action}.items():
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            episode = int(np.searchsorted(data.ends, bad[0], side="right"))
            raise DatasetError(
                f"{data.names[episode]}: {field} is NaN or infinite at step "
                f"{bad[0] - data.starts[episode]} once it is converted for the task"
            )
