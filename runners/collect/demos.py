"""What goes into a dataset: which episodes, of which task, and which of them are held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs import Task
from skipstep.observations import STATE, Arrays

from ..episodes.trajectory import Trajectory


@dataclass(frozen=True)
class Demo:
    """A kept episode; its steps are read from `path` when they are needed."""

    seed: int
    success: bool
    sigma: float
    path: Path

    def load(self) -> Trajectory:
        return Trajectory.load(self.path)


@dataclass(frozen=True)
class DemoSet:
    """The episodes of a dataset in its order, and the run's fingerprint that marks it as ours."""

    task: Task
    demos: list[Demo]
    valid_share: float
    fingerprint: str

    def parts(self, obs: Arrays) -> dict[str, NDArray[Any]]:
        """Observations (T, ...) by the names that the task's datasets have.

        One array, or `state` of several, is cut up where the task names its parts; other arrays
        keep their names.
        """
        arrays = dict(obs) if isinstance(obs, Mapping) else {STATE: obs}
        if STATE not in arrays:
            return arrays
        state = arrays.pop(STATE)
        sizes = dict(self.task.obs_parts) or {"obs": state.shape[1]}
        ends = np.cumsum(list(sizes.values()))
        return dict(zip(sizes, np.split(state, ends[:-1], axis=1), strict=True)) | arrays

    def valid(self) -> list[int]:
        """Indices of the held-out episodes, evenly spread; at least one of two or more."""
        n = len(self.demos)
        n_valid = max(1, round(self.valid_share * n)) if self.valid_share and n > 1 else 0
        return [int(i) for i in (np.arange(n_valid) + 0.5) * n / max(n_valid, 1)]
