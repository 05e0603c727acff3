"""Who acts while episodes are collected: a scripted expert, or a policy, accelerated or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs import Expert

from ..acceleration.quantization import accelerate, acceleration_of
from ..episodes.loop import Acting
from ..jobs.description import describe
from ..jobs.job import Job


class Scripted:
    """A task's expert where a policy is expected; it acts row by row."""

    n_action_steps = 1

    def __init__(self, expert: Expert) -> None:
        self.expert, self.n_obs_steps = expert, expert.n_obs_steps

    def act(self, obs: Tensor, noise: Sequence[torch.Generator]) -> Tensor:
        """Return (B, 1, action_dim) for (B, n_obs_steps, obs_dim); `noise` is not used."""
        rows = obs.double().cpu().numpy()
        return torch.from_numpy(np.stack([self.expert.act(row) for row in rows])[:, None])


@contextmanager
def _expert(job: Job) -> Iterator[Acting]:
    assert job.task.expert is not None
    yield Scripted(job.task.expert)


@contextmanager
def _policy(job: Job) -> Iterator[Acting]:
    describe(job)
    with accelerate(job, acceleration_of(job)) as fast:
        yield fast


class Source(NamedTuple):
    """Who acts, and the action noise that its episodes have unless told otherwise."""

    acting: Callable[[Job], AbstractContextManager[Acting]]
    noise: float


SOURCES = {"expert": Source(_expert, 0.3), "policy": Source(_policy, 0.0)}
