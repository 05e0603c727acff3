"""Runs whose episodes are in the repository: taken as done instead of being played again."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from omegaconf import OmegaConf

from ..jobs.job import Job
from ..machine import warn_of_others
from ..store.atomic import replacing
from ..store.folder import (
    CONFIG,
    EPISODES,
    OBSERVATIONS,
    PLAN_DIGEST,
    RESULT,
    TIME,
    RunStore,
    StoreError,
    read_episodes,
)

log = logging.getLogger(__name__)


def accept(job: Job, store: RunStore) -> None:
    """Copy <accept>/<study>/<run>, if it is there, into a run's folder that has no episodes yet.

    It goes on from there as if it had run here: a finished run is finished, and more episodes
    extend it, under the same plan. `force` accepts nothing.

    Raises:
        StoreError: what is there is another run.
    """
    settings = job.settings
    if settings.accept is None or settings.force or store.episodes:
        return
    source = Path(settings.accept) / settings.study / job.name
    if not read_episodes(source):
        return
    path = source / CONFIG
    there = OmegaConf.select(OmegaConf.load(path), "fingerprint") if path.exists() else None
    if there != job.fingerprint:
        raise StoreError(
            f"{source} holds another run (its fingerprint is {there}, not {job.fingerprint}): "
            "accept=null runs it anew"
        )
    for name in (RESULT, TIME, PLAN_DIGEST, OBSERVATIONS, EPISODES):  # episodes last: then all is
        if (source / name).exists():
            with replacing(store.folder / name) as temporary:
                shutil.copyfile(source / name, temporary)
    store.episodes = read_episodes(store.folder)
    warn_of_others(store.episodes.values(), f"the episodes of {source}")
    log.info("%d episodes accepted from %s", len(store.episodes), source)
