"""Queries of demonstrations: what a policy would have seen at the steps of a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from accel.calibration.calibration import MIN_QUERIES
from envs import Task
from policies import DatasetError, DiffusionPolicy
from skipstep.observations import STATE, Arrays, each, n_rows

from ..episodes.queries import Queries, choose_queries
from .dataset import BrokenImageError, read_content
from .settings import CalibrationChoice, UserError


@dataclass(frozen=True, eq=False)
class Demonstrated:
    """Episodes of a dataset.

    Attributes:
        content: hash of its files.
        numbers: of the episodes.
        obs: of each, as the policy sees them: (steps, obs_dim), or a mapping of such arrays, images
            in their files.
    """

    content: str
    numbers: list[int]
    obs: list[Arrays]

    def queries(self, n_obs_steps: int, n: int) -> Queries:
        """About n steps, evenly over the episodes and their length.

        An observation's history before its episode repeats the first one, as in an evaluation.

        Raises:
            BrokenImageError: an image of a query cannot be decoded.
        """
        seen = [each(lambda array: Histories(array, n_obs_steps), obs) for obs in self.obs]
        try:
            return choose_queries(self.numbers, seen, n)
        except DatasetError as error:
            raise BrokenImageError(f"calibration.data: {error}") from error


@dataclass(frozen=True, eq=False)
class Histories:
    """What was seen at the steps of an episode: an array (n_steps, n_obs_steps, ...), not made.

    Attributes:
        steps: (n_steps, ...).
        n_obs_steps: the newest is the step's own.
    """

    steps: Any
    n_obs_steps: int

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, step: int) -> Any:
        """(n_obs_steps, ...)."""
        return self.steps[np.clip(np.arange(step - self.n_obs_steps, step) + 1, 0, None)]


def demonstrated(choice: CalibrationChoice, policy: DiffusionPolicy, task: Task) -> Demonstrated:
    """Read the dataset that calibration.data names; its actions do not matter.

    Raises:
        UserError: it cannot be read, or its observations are not the policy's.
    """
    assert choice.data is not None
    try:
        data, content = read_content([choice.data], "auto", (), task, actions=False)
    except DatasetError as error:
        raise UserError(f"calibration.data: {error}") from error
    no_actions = np.empty((len(data.action), 0), dtype=np.float32)
    state, _ = task.convert(data.state, no_actions)
    if STATE in policy.obs_spec and state.shape[1] != (wanted := policy.obs_spec[STATE].shape[0]):
        raise UserError(
            f"calibration.data {choice.data}: an observation has {state.shape[1]} numbers, "
            f"the policy's has {wanted}"
        )
    data = data.converted(state, data.action)
    last = len(data.ends) - 1
    numbers = list(range(last + 1)) if choice.demos is None else sorted(choice.demos)
    if numbers[-1] > last:
        raise UserError(
            f"calibration.demos must be from 0 to {last} (the episodes of {choice.data}), "
            f"got {numbers[-1]}"
        )
    episodes = [data.episode(number) for number in numbers]
    if (n_steps := sum(map(n_rows, episodes))) < MIN_QUERIES:
        raise UserError(
            f"calibration.data {choice.data}: the episodes have {n_steps} steps, "
            f"at least {MIN_QUERIES} are needed"
        )
    return Demonstrated(content, numbers, episodes)
