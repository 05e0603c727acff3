"""Who acts while episodes are collected: a scripted expert, or a policy, accelerated or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs import Expert
from skipstep.observations import each, n_rows, take

from ..acceleration.quantization import accelerate, acceleration_of
from ..episodes.loop import Acting
from ..jobs.description import describe
from ..jobs.job import Job


class Scripted:
    """A task's expert where a policy is expected; it acts row by row."""

    n_action_steps = 1

    def __init__(self, expert: Expert) -> None:
        self.expert, self.n_obs_steps = expert, expert.n_obs_steps

    def act(self, obs: Any, noise: Sequence[torch.Generator]) -> Tensor:
        """Return (B, 1, action_dim) for (B, n_obs_steps, obs_dim), or for a mapping of such arrays.

        `noise` is not used.
        """
        seen = each(_numbers, obs)
        actions = [self.expert.act(take(seen, row)) for row in range(n_rows(seen))]
        return torch.from_numpy(np.stack(actions)[:, None])


def _numbers(array: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = array.cpu().numpy()
    return found if found.dtype == np.uint8 else found.astype(np.float64)


@contextmanager
def _expert(job: Job) -> Iterator[Acting]:
    assert job.task.expert is not None
    yield Scripted(job.task.expert)


@contextmanager
def _policy(job: Job) -> Iterator[Acting]:
    describe(job)
    with accelerate(job, acceleration_of(job)) as fast:
        yield fast


SOURCES: dict[str, Callable[[Job], AbstractContextManager[Acting]]] = {
    "expert": _expert,
    "policy": _policy,
}
