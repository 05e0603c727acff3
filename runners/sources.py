"""Who acts while episodes are collected: a scripted expert, or a policy, accelerated or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

from accel import accelerated

from .evaluate import Acting
from .expert import EXPERTS
from .prepare import Job, describe
from .quantisations import acceleration_of


@contextmanager
def _expert(job: Job) -> Iterator[Acting]:
    yield EXPERTS[job.task.name]()


@contextmanager
def _policy(job: Job) -> Iterator[Acting]:
    describe(job)
    cheaper = acceleration_of(job)
    with accelerated(job.policy, cheaper.plan, cheaper.quantised, job.engine) as fast:
        yield fast


class Source(NamedTuple):
    """Who acts, and the action noise that its episodes have unless told otherwise."""

    acting: Callable[[Job], AbstractContextManager[Acting]]
    noise: float


SOURCES = {"expert": Source(_expert, 0.3), "policy": Source(_policy, 0.0)}
