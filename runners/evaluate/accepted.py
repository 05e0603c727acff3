"""Runs whose episodes are in the repository: taken as done instead of being played again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..jobs.job import Job
from ..machine import warn_of_others
from ..places import PUBLISHED, RESULTS
from ..store.folder import RunStore, StoreError
from ..store.names import EPISODES, OBSERVATIONS, PLAN_DIGEST, RESULT, TIME
from ..store.published import Published, published_run

log = logging.getLogger(__name__)


def accept(job: Job, store: RunStore) -> None:
    """Copy a run that is published in this study into a run's folder that has no episodes yet.

    It goes on from there as if it had run here: a finished run is finished, and more episodes
    extend it, under the same plan. `force` accepts nothing. An installed wheel has no results/.

    Raises:
        StoreError: what is there is another run.
    """
    if job.settings.force or store.episodes:
        return
    source = _source(job, job.name)
    if source is None or not source.episodes:
        return
    if (there := source.config.get("fingerprint")) != job.fingerprint:
        raise StoreError(
            f"{source.folder} holds another run (its fingerprint is {there}, not "
            f"{job.fingerprint}): accept=null runs it anew"
        )
    # episodes last: then all is there
    source.copy(store.folder, (RESULT, TIME, PLAN_DIGEST, OBSERVATIONS, EPISODES))
    store.episodes = source.episodes
    warn_of_others(store.episodes.values(), f"the episodes of {source.folder}")
    log.info("%d episodes accepted from %s", len(store.episodes), source.folder)


def published_episodes(job: Job, name: str) -> Mapping[int, Mapping[str, Any]]:
    """Of another run of this study that is published; none where `accept` is null."""
    source = _source(job, name)
    return {} if source is None else source.episodes


def _source(job: Job, name: str) -> Published | None:
    place = job.settings.accept
    if place is None:
        return None
    return published_run(RESULTS if place == PUBLISHED else Path(place), job.settings.study, name)
