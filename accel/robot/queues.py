"""What lies between the steps of a robot: its last observations, and actions still to be executed.

As LeRobot's `select_action` has it: the first observation after a reset stands for those before it,
and the policy is asked again when all actions of a chunk are executed.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from .inputs import Batch


class Queues:
    """The last `n_obs_steps` observations of each row, and the actions of its chunk.

    Args:
        n_obs_steps: that a policy sees.
    """

    def __init__(self, n_obs_steps: int) -> None:
        self.seen: deque[dict[str, Tensor]] = deque(maxlen=n_obs_steps)
        self.actions: deque[Tensor] = deque()
        self.n_rows: int | None = None

    def reset(self) -> None:
        """Forget all of it: a new episode begins."""
        self.seen.clear()
        self.actions.clear()
        self.n_rows = None

    def see(self, batch: Batch) -> None:
        """Take the observation of a step, arrays (B, ...).

        Raises:
            ValueError: another number of rows than the step before.
        """
        if self.n_rows not in (None, batch.n_rows):
            raise ValueError(
                f"an observation must have {self.n_rows} rows as the one before it, got "
                f"{batch.n_rows}: call reset() where a new episode begins"
            )
        self.n_rows = batch.n_rows
        step = {name: array.clone() for name, array in batch.arrays.items()}
        self.seen.append(step)
        while len(self.seen) < (self.seen.maxlen or 1):
            self.seen.append(step)

    def history(self) -> dict[str, Tensor]:
        """The arrays (B, n_obs_steps, ...)."""
        return {name: torch.stack([step[name] for step in self.seen], 1) for name in self.seen[0]}
