"""What every run does around its work: open its folder, look whether it is done, log, sign."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..loggers import LOGGERS, NullLogger
from ..overrides import command
from ..store.folder import RunStore
from ..wandb_values import wandb_config, wandb_run
from .versions import versions

log = logging.getLogger(__name__)


def run_unless_done(
    job: Any,
    folder: Path,
    run: Callable[[RunStore], dict[str, Any]],
    stands: Callable[[Mapping[str, Any]], bool] = lambda done: True,
) -> dict[str, Any]:
    """Run a job in its folder, unless it has a result that stands; its result.

    Args:
        job: of any runner.
        folder: of the run, opened for as long as it goes on.
        run: does the work, writes result.json and returns what is in it.
        stands: whether a result that is there is still what the job would give.

    Raises:
        StoreError: the folder holds another run, or another process is running in it.
    """
    with RunStore(folder, job.config, job.settings.force) as store:
        done = store.result()
        if done and stands(done):
            log.info("finished already: %s", folder)
            return done
        with store.running():
            return run(store)


@contextmanager
def logged(job: Any, folder: Path, kind: str, *tags: str) -> Iterator[NullLogger]:
    """The job's logger; what fails within it is logged as failed."""
    told = wandb_run(job, kind, *tags), wandb_config(job.config, versions())
    logger = LOGGERS[job.logger.name](folder, *told)
    exit_code = 1
    try:
        yield logger
        exit_code = 0
    finally:
        logger.close(exit_code)


def signature(job: Any) -> dict[str, Any]:
    """What every result.json ends with: which run it is of, how to make it, and in what."""
    world = getattr(job.task, "world", "")  # of runner=show the task is a name
    return {
        **({"world": world} if world else {}),
        "fingerprint": job.fingerprint,
        "command": command(),
        "versions": versions(),
    }
