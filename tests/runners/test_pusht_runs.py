"""Runs of PushT: what they say, and in which units."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from policies import DiffusionPolicy, NetworkConfig, PolicyConfig, TaskInfo, save_policy
from policies.sampling.config import SamplerConfig
from runners.cli import job_of, run
from runners.jobs.description import describe


def policy(folder: Path, obs_dim: int = 20, name: str = "pusht_lowdim") -> Path:
    """Random, whose actions are on the board: 256 +- 256 px."""
    torch.manual_seed(0)
    network = NetworkConfig(2, 2, 16, 2, cond_dim=obs_dim, n_layer=1, n_head=2, n_emb=16)
    config = PolicyConfig(
        network,
        obs_dim=obs_dim,
        action_dim=2,
        n_action_steps=8,
        sampler=SamplerConfig(kind="ddim", steps=2),
        task=TaskInfo(name),
    )
    made = DiffusionPolicy(config)
    with torch.no_grad():
        for field, values in made.normalizer.params_dict.items():
            values["scale"].fill_(1 / 256)
            values["offset"].fill_(-1.0)
            assert field in ("obs", "action")
    save_policy(made, folder)
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def played(study: str, *words: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """result.json and episodes.jsonl by seed, of a run of three short episodes."""
    fixed = ["task=pusht", "task.max_steps=20", "n_episodes=3", "logger=none", "latency.repeats=0"]
    assert run([*fixed, "engine=reference", f"study={study}", *words]) == 0
    (folder,) = Path("multirun", study).iterdir()
    lines = (folder / "episodes.jsonl").read_text().splitlines()
    episodes = sorted(map(json.loads, lines), key=lambda e: e["seed"])
    return json.loads((folder / "result.json").read_text()), episodes


def test_a_run_reports_both_conventions_in_pixels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"task.checkpoint={policy(tmp_path / 'policy')}"
    result, episodes = played("one", words, "n_envs=1", "videos=1")
    said = " ".join(capsys.readouterr().out.split())
    assert result["n_errors"] == 0
    assert result["task_metrics"] == {"avg_max_reward": pytest.approx(result["mean_score"])}
    assert result["embodied"]["path_length_px"]["mean"] > 20
    assert "path_length_m" not in result["embodied"]
    assert " px (3 episodes) joint path - jerk " in said
    assert " px2/s6 (3 episodes)" in said
    assert "avg_max_reward" in said
    for episode in episodes:
        assert set(episode["details"]) == {"max_reward", "final_coverage"}
        assert episode["n_steps"] == 20
    assert list(Path("multirun/one").glob("*/videos/100000.mp4"))

    _, again = played("three", words, "n_envs=3", "videos=0")
    for first, second in zip(episodes, again, strict=True):
        for key in ("seed", "score", "n_steps", "details", "embodied"):
            assert first[key] == second[key]


def test_what_a_checkpoint_does_not_say_is_not_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_of(["task=pusht", f"task.checkpoint={policy(tmp_path / 'policy')}", "logger=none"])
    assert job.task.config.convention == "diffusion_policy"
    with caplog.at_level(logging.INFO):
        describe(job)
    assert "2 observations, 8 actions, ddim-2" in caplog.text
