"""How far a plan puts the actions off, and which plans no other one beats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from accel import CachePlan, accelerated, action_error
from skipstep.observations import take

from ..episodes.observed import tensors
from ..episodes.queries import Queries

if TYPE_CHECKING:
    from ..jobs.job import Job


class Judge:
    """How far a plan's actions are from the plain policy's, on the same noise."""

    def __init__(self, job: Job, queries: Queries) -> None:
        self.job, self.queries = job, queries
        everything = np.arange(len(queries))
        self.plain = self._actions(None, everything)

    def errors(self, plan: CachePlan, rows: np.ndarray) -> np.ndarray:
        """(len(rows),) action errors: RMS over executed actions, in normalised units."""
        error: np.ndarray = action_error(self._actions(plan, rows), self.plain[rows]).numpy()
        return error

    def _actions(self, plan: CachePlan | None, rows: np.ndarray) -> torch.Tensor:
        job, found = self.job, []
        noise = self.queries.noise(job.settings.noise_seed)
        size = job.settings.policy_batch
        with accelerated(job.policy, plan, engine=job.engine) as fast:
            for first in range(0, len(rows), size):
                part = rows[first : first + size]
                obs = tensors(take(self.queries.obs, part))
                actions = fast.act(obs, [noise[row] for row in part])
                normalised = job.policy.normalizer.normalize(
                    "action", actions.to(job.policy.device)
                )
                found.append(normalised.double().cpu())
        return torch.cat(found)


def pareto(points: Sequence[tuple[float, float]]) -> set[int]:
    """Indices of points that no other one beats in one number without being worse in the other."""
    return {
        i
        for i, (a, b) in enumerate(points)
        if not any(c <= a and d <= b and (c, d) != (a, b) for c, d in points)
    }
