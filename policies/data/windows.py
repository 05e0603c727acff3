"""Demonstrations as training sees them: split by where they come from, cut into windows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from skipstep.observations import STATE, Arrays, take

from .datasets import Demonstrations, Integers
from .episode import DatasetError
from .episode_checks import Floats


def split_episodes(data: Demonstrations, val_ratio: float, seed: int) -> tuple[Integers, Integers]:
    """Episode numbers for training and for validation.

    What the file says (robomimic's mask/train and mask/valid) is respected; else whole groups of
    the same source are drawn, at least one and never all; val_ratio 0 draws none.
    """
    everything = np.arange(len(data.ends))
    if any(data.splits):
        said = np.array(data.splits)
        if not (said == "train").any():
            raise DatasetError(f"{data.names[0]}: mask/train names no episode")
        return everything[said == "train"], everything[said == "valid"]
    groups = np.unique(data.sources)
    n_valid = min(max(1, round(val_ratio * len(groups))), len(groups) - 1) if val_ratio else 0
    drawn = np.random.default_rng(seed).permutation(groups)[:n_valid]
    valid = np.isin(data.sources, drawn)
    return everything[~valid], everything[valid]


class Windows:
    """All sequences of `horizon` steps of some episodes, padded by repeating an episode's edges.

    Args:
        data: the demonstrations.
        episodes: numbers of those to cut.
        horizon: length of a window.
        pad_before: a window may begin this many steps before its episode (n_obs_steps - 1); where
            an observation is several arrays, they are given of the first pad_before + 1 steps.
        pad_after: and end this many after it (n_action_steps - 1).
    """

    def __init__(
        self,
        data: Demonstrations,
        episodes: Integers,
        horizon: int,
        pad_before: int,
        pad_after: int,
    ) -> None:
        self.data, self.horizon, self.n_seen = data, horizon, pad_before + 1
        spans = []
        for episode in episodes:
            low, high = data.starts[episode], data.ends[episode]
            starts = np.arange(low - pad_before, high - horizon + pad_after + 1)
            bounds = np.broadcast_to([low, high - 1], (len(starts), 2))
            spans.append(np.c_[starts, bounds])
        self.spans = np.concatenate(spans) if spans else np.empty((0, 3), np.int64)

    def __len__(self) -> int:
        return len(self.spans)

    def take(self, numbers: Integers, noise: Floats | None = None) -> tuple[Arrays, Floats]:
        """Windows as observations and action (B, horizon, action_dim).

        Args:
            numbers: (B,) of the windows.
            noise: (B, horizon, obs_dim) added to the observations, of several arrays to `state`; a
                repeated observation repeats its noise, as the history before an episode does in a
                rollout.

        Returns:
            (B, horizon, obs_dim), or {name: (B, n_seen, ...)}, images uint8; and the actions.
        """
        start, low, high = self.spans[numbers].T[..., None]
        rows = np.clip(start + np.arange(self.horizon), low, high)
        obs: Arrays
        if isinstance(self.data.obs, Mapping):
            obs = take(self.data.obs, rows[:, : self.n_seen])
        else:
            obs = self.data.obs[rows]
        if noise is not None:
            added = noise[np.arange(len(numbers))[:, None], rows - start]
            if isinstance(obs, Mapping):
                obs = {**obs, STATE: obs[STATE] + added[:, : self.n_seen]}
            else:
                obs = obs + added
        return obs, self.data.action[rows]
