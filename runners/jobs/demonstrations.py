"""Queries of demonstrations: what a policy would have seen at the steps of a dataset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accel.calibration.calibration import MIN_QUERIES
from envs import Task
from policies import DatasetError, DiffusionPolicy

from ..episodes.queries import Queries, choose_queries
from .dataset import read_content
from .settings import CalibrationChoice, UserError


@dataclass(frozen=True, eq=False)
class Demonstrated:
    """Episodes of a dataset.

    Attributes:
        content: hash of its files.
        numbers: of the episodes.
        obs: (steps, obs_dim) of each, as the policy sees them.
    """

    content: str
    numbers: list[int]
    obs: list[np.ndarray]

    def queries(self, n_obs_steps: int, n: int) -> Queries:
        """About n steps, evenly over the episodes and their length.

        An observation's history before its episode repeats the first one, as in an evaluation.
        """
        back = np.arange(n_obs_steps) - n_obs_steps + 1
        seen = [o[np.clip(np.arange(len(o))[:, None] + back, 0, None)] for o in self.obs]
        return choose_queries(self.numbers, seen, n)


def demonstrated(choice: CalibrationChoice, policy: DiffusionPolicy, task: Task) -> Demonstrated:
    """Read the dataset that calibration.data names; its actions do not matter.

    Raises:
        UserError: it cannot be read, or its observations are not the policy's.
    """
    assert choice.data is not None
    if not policy.obs_spec.single:
        raise UserError(
            "calibration.data must be null for a policy that sees more than one array "
            f"({', '.join(policy.obs_spec)}), got {choice.data}"
        )
    try:
        data, content = read_content([choice.data], "auto", (), task, actions=False)
    except DatasetError as error:
        raise UserError(f"calibration.data: {error}") from error
    no_actions = np.empty((len(data.obs), 0), dtype=np.float32)
    obs, _ = task.convert(data.obs, no_actions)
    if obs.shape[1] != policy.obs_dim:
        raise UserError(
            f"calibration.data {choice.data}: an observation has {obs.shape[1]} numbers, "
            f"the policy's has {policy.obs_dim}"
        )
    last = len(data.ends) - 1
    numbers = list(range(last + 1)) if choice.demos is None else sorted(choice.demos)
    if numbers[-1] > last:
        raise UserError(
            f"calibration.demos must be from 0 to {last} (the episodes of {choice.data}), "
            f"got {numbers[-1]}"
        )
    episodes = [obs[data.starts[number] : data.ends[number]] for number in numbers]
    if (n_steps := sum(map(len, episodes))) < MIN_QUERIES:
        raise UserError(
            f"calibration.data {choice.data}: the episodes have {n_steps} steps, "
            f"at least {MIN_QUERIES} are needed"
        )
    return Demonstrated(content, numbers, episodes)
