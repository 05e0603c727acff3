"""An evaluation, whole or as one of its shards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skipstep.whole_files import write_whole

from ..jobs.job import Job
from ..jobs.prepare import prepare_job
from ..jobs.runner import Runner
from ..store.folder import RunStore, dump
from ..store.names import MERGING, STATUS
from ..store.shards import Shard, beside_other_shards, known_episodes, merge, whole_run
from .accepted import accept
from .run import EvaluateConfig, play, run_evaluate, run_missing
from .table import render


def run_evaluation(job: Job, folder: Path) -> dict[str, Any]:
    """Run what the settings ask for, in the run's folder or in a shard's below it."""
    if job.settings.shard is None:
        return run_evaluate(job, folder)
    with beside_other_shards(whole_run(folder)):
        _play_share(job, folder)
        return _finish(job, whole_run(folder))


def _play_share(job: Job, folder: Path) -> None:
    run = whole_run(folder)
    with RunStore(run, job.config, lock=MERGING) as whole:  # its settings are there from the start
        accept(job, whole)
    shard = Shard.parse(job.settings.shard or "")
    elsewhere = known_episodes(run)
    seeds = [s for s in shard.share(job.seeds) if elsewhere.get(s, {}).get("status") != "ok"]
    with RunStore(folder, job.config) as store, store.running():
        if seeds:
            play(job, store, seeds)


def _finish(job: Job, folder: Path) -> dict[str, Any]:
    """Put the shards together where no seed is missing; the first shard to see that does it."""
    with RunStore(folder, job.config, lock=MERGING) as store:
        done = sum(seed in known_episodes(folder) for seed in job.seeds)
        if done < len(job.seeds):
            said = f"{done} of {len(job.seeds)} episodes, in shards"
            write_whole(folder / STATUS, dump({"status": said}))
            return {"waiting": f"{job.name}: {said}; the last shard puts them together"}
        merge(store)
        return run_missing(job, store, [])


def render_evaluation(result: Mapping[str, Any], folder: Path) -> str:
    """A result, or how far a run in shards is; the result is the whole run's, not a shard's."""
    return str(result["waiting"]) if "waiting" in result else render(result, whole_run(folder))


EVALUATE = Runner(EvaluateConfig, prepare_job, run_evaluation, render_evaluation)
