"""What a run is called follows from what it computes: the names that are published stay."""

from __future__ import annotations

import pytest

from accel.kernels.native import library
from policies import load_policy
from runners.cli import job_of
from runners.places import RESULTS
from tests.helpers.places import PROJECT

FINGERPRINTS = {
    "kitchen": "9dbfb92d53636e5b299755bcca9b82152018fe95b626d0db8c14546e2d7659ca",
    "lift": "b563262347aa4d02b04a1b4e1f8b7082c7dabd2da14a3e538cb341d82d01ffb5",
}
PUBLISHED = {
    "task=kitchen": "kitchen_none_none_s0_9e9c9744",
    "task=kitchen cache=hash_ab": "kitchen_hash_ab_none_s0_6c6b7aee",
    "task=lift cache=hash_ab": "lift_hash_ab_none_s0_e502b2e9",
    "task=kitchen cache=hash_ab quant=duquant": "kitchen_hash_ab_duquant_s0_21c8a0c8",
    "task=kitchen cache=uniform realtime.latency_ms=80": ("kitchen_uniform_none_s0_12e50076"),
}


@pytest.mark.parametrize("task", FINGERPRINTS)
def test_the_shipped_policies_keep_their_fingerprints(task: str) -> None:
    assert load_policy(PROJECT / "checkpoints" / task).fingerprint() == FINGERPRINTS[task]


@pytest.mark.skipif(library() is None, reason="without a C compiler the engine is another one")
@pytest.mark.parametrize("words", PUBLISHED)
def test_published_runs_keep_their_names(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    job = job_of(words.split())
    assert (RESULTS / "runs" / PUBLISHED[words]).is_dir()
    assert job.name == PUBLISHED[words]
    assert job.baseline_name == {
        "kitchen": "kitchen_none_none_s0_9e9c9744",
        "lift": "lift_none_none_s0_6ea92d82",
    }.get(job.task.name)
