"""Who acts while episodes are collected: a scripted expert, or a policy, accelerated or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

from ..acceleration.quantization import accelerate, acceleration_of
from ..episodes.loop import Acting
from ..jobs.description import describe
from ..jobs.job import Job
from .expert import EXPERTS


@contextmanager
def _expert(job: Job) -> Iterator[Acting]:
    yield EXPERTS[job.task.name]()


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
