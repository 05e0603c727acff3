"""A run is prepared once: a job's preparation and the hashes of its weights are counted."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from accel.engines import backend
from accel.kernels import facts, native
from accel.kernels.facts import expecting, hold, known, noting
from policies import fingerprints
from runners import cli, registry
from runners.acceleration import calibration as calibrations
from runners.episodes.queries import Queries, choose_queries
from runners.jobs import checkpoint
from runners.launch.prepared import Prepared
from tests.helpers.fake_episodes import SMALL, fake, run

HASH_AB = ("task=kitchen", "cache=hash_ab", "calibration.n_queries=8", "n_episodes=2", "videos=0")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, int]:
    monkeypatch.chdir(tmp_path)
    counts = {"prepared": 0, "hashed": 0}
    hash_of, prepare = fingerprints.fingerprint, registry.prepare

    def hashed(settings: str, state: Mapping[str, Any]) -> str:
        counts["hashed"] += 1
        return hash_of(settings, state)

    def prepared(cfg: Any) -> Any:
        counts["prepared"] += 1
        return prepare(cfg)

    monkeypatch.setattr(fingerprints, "fingerprint", hashed)
    monkeypatch.setattr(cli, "prepare", prepared)
    return counts


def queries(job: Any) -> Queries:
    rng = np.random.default_rng(0)
    shape = (4, job.policy.n_obs_steps, job.policy.obs_dim)
    seen = [rng.standard_normal(shape).astype(np.float32) for _ in range(2)]
    return choose_queries([300000, 300001], seen, 8)


def test_a_run_is_prepared_once_and_hashes_its_weights_once(
    counted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrations, "play", queries)
    checkpoint._load.cache_clear()
    fake(monkeypatch)
    assert run(monkeypatch, *HASH_AB) == 0
    assert counted == {"prepared": 1, "hashed": 1}
    assert run(monkeypatch, *HASH_AB) == 0  # finished already: prepared, and not hashed
    assert counted == {"prepared": 2, "hashed": 1}


def test_each_job_of_a_sweep_is_prepared_when_its_turn_comes(
    counted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch)
    words = ("task=kitchen", "cache=uniform", "cache.steps=2,3", "n_episodes=1", "videos=0")
    assert run(monkeypatch, "-m", *words) == 0
    assert counted["prepared"] == 4  # two by the check, which is not to keep a sweep


def test_a_check_compiles_nothing_and_the_run_finds_out(
    counted: dict[str, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[bool] = []

    def fails() -> bool:
        asked.append(True)
        return False

    fake(monkeypatch)
    words = ("task=kitchen", "engine=fused", "n_episodes=1", "videos=0")
    monkeypatch.setattr(backend, "is_compiled", fails)
    monkeypatch.setattr(facts, "has_compiler", lambda: True)
    (launch,) = cli.validate([*SMALL, *words])
    assert not asked
    assert run(monkeypatch, *words) == 0
    assert counted["prepared"] == 3  # both checks expected another engine than the run has
    (folder,) = tmp_path.glob("multirun/main/kitchen_*")
    assert OmegaConf.load(folder / "config.yaml").engine.backend == "torch"
    assert launch.folders[0].name != folder.name


def test_facts_are_noted_and_found_out() -> None:
    with noting() as noted, expecting():
        expected = known(native.is_compiled)
    assert noted == {native.is_compiled: expected}
    assert hold(noted) == (native.is_compiled() == expected)


def test_what_a_preparation_says_is_heard_when_its_job_is_taken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    jobs = Prepared(lambda cfg: logging.getLogger("runners").info("prepared %d", cfg.n) or cfg.n)
    assert jobs.job(OmegaConf.create({"n": 1, "hydra": {"a": 1}})) == 1
    assert caplog.messages == []
    assert jobs.take(OmegaConf.create({"n": 1, "hydra": {"a": 2}})) == 1
    assert caplog.messages == ["prepared 1"]
    jobs.job(OmegaConf.create({"n": 2}))
    jobs.forget()
    assert caplog.messages == ["prepared 1", "prepared 2"]
