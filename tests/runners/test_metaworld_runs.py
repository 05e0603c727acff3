"""Runs of Meta-World: which of its 50 worlds, and that two are never taken for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.metaworld_experts import played
from envs import make_task
from envs.metaworld.names import INSTRUCTIONS
from runners.cli import job_of, run
from runners.episodes.trajectory import Trajectory
from runners.studies.study import read_study

ALL = ", ".join(INSTRUCTIONS)
SMALL = ["runner.n_layer=1", "runner.n_head=1", "runner.n_emb=8", "runner.n_steps=2"]
QUIET = ["task=metaworld", "logger=none", "threads=1"]


def collect(env: str, study: str, *more: str) -> Path:
    """The folder of three episodes of the script, with noise."""
    words = [*QUIET, "runner=collect", f"task.env={env}", f"study={study}", "n_episodes=3"]
    assert run([*words, *more]) == 0
    (folder,) = Path("multirun", study).glob("collect_metaworld_*")
    return folder.absolute()


@pytest.fixture(scope="module")
def reach(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Three demonstrations, and a policy that was trained on them for two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("reach"))
        data = collect("reach-v3", "main", "n_envs=2")
        train = [*QUIET, "runner=train", "task.env=reach-v3", *SMALL, "runner.rollout_every=0"]
        assert run([*train, f"runner.data={data / 'dataset.hdf5'}"]) == 0
        (policy,) = Path("multirun/main").glob("metaworld_train_*/policy")
        return data, policy.absolute()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a mistake."""
    assert run(words) == 2
    return capsys.readouterr().err.strip().removeprefix("error: ")


def test_the_script_is_collected_whatever_the_number_of_environments(
    reach: tuple[Path, Path],
) -> None:
    alone = collect("reach-v3", "alone", "n_envs=1")
    expected = list(played(make_task("metaworld", env="reach-v3"), 0.3, [0, 1, 2]))
    for seed, episode in enumerate(expected):
        one, two = (Trajectory.load(f / f"trajectories/{seed}.npz") for f in (alone, reach[0]))
        for name in ("obs", "actions", "rewards", "states"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
        assert len(one.actions) == episode.n_steps
        assert episode.success
        assert np.abs(one.actions).max() <= 1
        assert one.rewards.tolist() == [0.0] * (episode.n_steps - 1) + [1.0]
    result = json.loads((alone / "result.json").read_text())
    assert (result["task"], result["world"], result["n_success"]) == ("metaworld", "reach-v3", 3)


def test_a_checkpoint_says_its_world(
    reach: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    policy = [f"task.checkpoint={reach[1]}", *QUIET]
    assert job_of(policy).task.world == "reach-v3"
    assert job_of([*policy, "task.env=reach-v3"]).fingerprint == job_of(policy).fingerprint
    assert said([*policy, "task.env=push-v3"], capsys) == (
        f"task.checkpoint {reach[1]} was trained for metaworld/reach-v3; "
        "task.allow_foreign=true insists"
    )
    foreign = job_of([*policy, "task.env=push-v3", "task.allow_foreign=true"])
    assert foreign.task.world == "push-v3"
    assert foreign.fingerprint != job_of(policy).fingerprint


def test_without_a_checkpoint_the_world_has_to_be_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert said([*QUIET, "runner=collect"], capsys) == (
        "task.env must name one of Meta-World's 50 worlds, got null (a checkpoint that was "
        f"trained here says which): {ALL}"
    )
    assert said([*QUIET, "runner=collect", "task.env=reach"], capsys) == (
        "task.env must be one of Meta-World's 50 worlds, got 'reach': reach-v3?"
    )


def test_data_of_another_world_is_refused(
    reach: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = reach[0] / "dataset.hdf5"
    words = [*QUIET, "runner=train", "task.env=push-v3", *SMALL, f"runner.data={data}"]
    assert said(words, capsys) == (
        f"task.env=push-v3 contradicts {data}, recorded in 'metaworld/reach-v3'"
    )
    nobody = [*QUIET, "runner=train", "task.env=push-v3", *SMALL]
    assert said(nobody, capsys) == (
        "runner.data must name a dataset (HDF5, npz, a LeRobot folder); null takes what "
        "runner=collect task=metaworld in push-v3 wrote in study=main, which is not there"
    )


def test_two_worlds_in_a_study_are_two(
    reach: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    short = [
        "n_episodes=2",
        "task.max_steps=5",
        "latency.repeats=0",
        "engine=reference",
        "videos=0",
    ]
    words = [*QUIET, f"task.checkpoint={reach[1]}", "sampler.steps=2", "n_envs=1", *short]
    assert run(words) == 0
    assert "metaworld reach-v3  cache=none" in capsys.readouterr().out
    assert run([*words, "task.env=push-v3", "task.allow_foreign=true"]) == 0
    study = read_study(Path("multirun/main"))
    assert sorted(study.strata.values()) == ["metaworld push-v3", "metaworld reach-v3"]
    results: list[dict[str, Any]] = [run.result for run in study.runs]
    assert sorted(result["world"] for result in results) == ["push-v3", "reach-v3"]
    assert all(result["n_errors"] == 0 for result in results)
