"""The queries that come with the shipped policies: a calibration without a simulator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runners import cli
from runners.acceleration import calibration as calibrations
from runners.acceleration.calibration import plan_of, queries_of, shipped_queries
from runners.jobs.job import Job
from tests.helpers.places import PROJECT

PUBLISHED = {"kitchen": "kitchen_bac_none_s0_0809fff5", "lift": "lift_bac_none_s0_4b05a535"}


def job_of(task: str) -> Job:
    job: Job = cli.job_of([f"task={task}", "cache=bac", "logger=none"])
    return job


def no_simulator(job: Job) -> Any:
    raise AssertionError("queries are shipped, and were played all the same")


@pytest.mark.parametrize("task", sorted(PUBLISHED))
def test_the_default_calibration_of_a_shipped_policy_plays_no_episode(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calibrations, "play", no_simulator)
    job = job_of(task)
    assert job.name == PUBLISHED[task]
    assert shipped_queries(job.recipe, job.checkpoint).exists()
    job.recipe.folder.mkdir(parents=True)
    queries = queries_of(job)
    assert queries.obs.shape == (64, job.policy.n_obs_steps, job.policy.obs_dim)
    assert min(queries.seeds) == 300000
    assert np.array_equal(queries_of(job).obs, queries.obs)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("task", sorted(PUBLISHED))
def test_bac_on_a_new_machine_computes_what_the_published_run_computed(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calibrations, "play", no_simulator)
    (result,) = PROJECT.glob(f"results/runs/{PUBLISHED[task]}/result.json")
    plan, _ = plan_of(job_of(task))
    assert plan.digest() == json.loads(result.read_text())["stats"]["plan"]
