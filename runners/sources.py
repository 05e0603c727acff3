"""Who acts while episodes are collected: a scripted expert, or a policy, accelerated or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from accel import accelerated

from .evaluate import Acting
from .expert import EXPERTS
from .job import describe
from .prepare import Job


@contextmanager
def _expert(job: Job) -> Iterator[Acting]:
    yield EXPERTS[job.task.name]()


@contextmanager
def _policy(job: Job) -> Iterator[Acting]:
    describe(job)
    with accelerated(job.policy, job.cache, job.quant, job.engine.name) as fast:
        yield fast


SOURCES: dict[str, Callable[[Job], AbstractContextManager[Acting]]] = {
    "expert": _expert,
    "policy": _policy,
}
