"""Runs of PushT: its convention is the policy's, and its units are pixels."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from policies import (
    DiffusionPolicy,
    NetworkConfig,
    PolicyConfig,
    SamplerConfig,
    TaskInfo,
    save_policy,
)
from policies.encoders.config import EncoderConfig
from runners.cli import job_of, run
from runners.jobs.description import describe
from tests.helpers import lerobot_folder

KEYPOINTS = {"state": [20]}
CORNERS = {"state": [2], "environment_state": [16]}
IMAGE = {"image.cam": [3, 40, 40], "state": [2]}


def policy(folder: Path, arrays: dict[str, list[int]], name: str = "") -> Path:
    """Random, with actions on the board: 256 +- 256 px."""
    torch.manual_seed(0)
    single = list(arrays) == ["state"]
    encoder = None if single else EncoderConfig(arrays, crop=None, feature_dim=4, n_keypoints=2)
    obs_dim = arrays["state"][0] if encoder is None else encoder.out_dim
    network = NetworkConfig(2, 2, 16, 2, cond_dim=obs_dim, n_layer=1, n_head=2, n_emb=16)
    config = PolicyConfig(
        network,
        obs_dim,
        action_dim=2,
        n_action_steps=8,
        sampler=SamplerConfig(kind="ddim", steps=2),
        task=TaskInfo(name),
        encoder=encoder,
    )
    made = DiffusionPolicy(config)
    with torch.no_grad():
        action: Any = made.normalizer.params("action")
        action["scale"].fill_(1 / 256)
        action["offset"].fill_(-1.0)
    save_policy(made, folder)
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def words(checkpoint: Path, *more: str) -> list[str]:
    return ["task=pusht", f"task.checkpoint={checkpoint}", "logger=none", *more]


def played(checkpoint: Path, study: str, *more: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """result.json, and the episodes by seed, of a run of two short ones."""
    short = ("task.max_steps=12", "n_episodes=2", "latency.repeats=0", "engine=reference")
    assert run(words(checkpoint, *short, f"study={study}", *more)) == 0
    (folder,) = Path("multirun", study).iterdir()
    lines = (folder / "episodes.jsonl").read_text().splitlines()
    episodes = sorted(map(json.loads, lines), key=lambda e: e["seed"])
    return json.loads((folder / "result.json").read_text()), episodes


@pytest.mark.parametrize(
    "arrays", [KEYPOINTS, CORNERS, IMAGE], ids=["keypoints", "corners", "image"]
)
def test_a_run_reports_what_both_conventions_do_in_pixels(
    arrays: dict[str, list[int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = policy(tmp_path / "policy", arrays)
    result, episodes = played(checkpoint, "one", "n_envs=1", "videos=1")
    said = " ".join(capsys.readouterr().out.split())
    assert result["n_errors"] == 0
    assert result["task_metrics"] == {"avg_max_reward": pytest.approx(result["mean_score"])}
    assert result["embodied"]["path_length_px"]["mean"] > 10
    assert "path_length_m" not in result["embodied"]
    assert " px (2 episodes) joint path - jerk " in said
    assert " px2/s6 (2 episodes)" in said
    assert "avg_max_reward" in said
    for episode in episodes:
        assert set(episode["details"]) == {"max_reward", "final_coverage"}
        assert episode["n_steps"] == 12
    assert list(Path("multirun/one").glob("*/videos/100000.mp4"))

    _, again = played(checkpoint, "two", "n_envs=2", "videos=0")
    for first, second in zip(episodes, again, strict=True):
        for key in ("seed", "score", "n_steps", "details", "embodied"):
            assert first[key] == second[key]


def test_an_image_policy_of_lerobot_runs(tmp_path: Path) -> None:
    checkpoint = lerobot_folder.write("v044_image", tmp_path / "lerobot")
    config = job_of(words(checkpoint)).task.config
    assert (config.obs, config.image_size, config.convention) == ("image", 96, "lerobot")
    result, episodes = played(checkpoint, "images", "n_envs=2", "videos=0")
    assert result["n_errors"] == 0
    assert [episode["n_queries"] for episode in episodes] == [2, 2]


@pytest.mark.parametrize(
    ("arrays", "name", "expected"),
    [
        (KEYPOINTS, "", ("keypoints", "diffusion_policy", None, None)),
        (KEYPOINTS, "pusht_lowdim", ("keypoints", "diffusion_policy", None, None)),
        ({"state": [5]}, "", ("state", "lerobot", None, None)),
        (CORNERS, "pusht", ("corners", "lerobot", None, None)),
        (IMAGE, "", ("image", "lerobot", 40, "cam")),
        (IMAGE, "pusht_image", ("image", "diffusion_policy", 40, "cam")),
    ],
)
def test_the_convention_is_the_policy_s(
    arrays: dict[str, list[int]], name: str, expected: tuple[Any, ...], tmp_path: Path
) -> None:
    checkpoint = policy(tmp_path / "policy", arrays, name)
    job = job_of(words(checkpoint))
    config = job.task.config
    assert (config.obs, config.convention, config.image_size, config.camera) == expected
    explicit = [f"task.obs={config.obs}", f"task.convention={config.convention}"]
    assert job_of(words(checkpoint, *explicit)).name == job.name
    other = "lerobot" if config.convention == "diffusion_policy" else "diffusion_policy"
    elsewhere = job_of(words(checkpoint, f"task.convention={other}"))
    assert (elsewhere.task.config.obs, elsewhere.task.config.convention) == (config.obs, other)
    assert elsewhere.name != job.name


@pytest.mark.parametrize(
    ("arrays", "more", "message"),
    [
        ({"state": [19]}, (), "has obs_dim 19, task=pusht has 20"),
        (KEYPOINTS, ("task.obs=state",), "has obs_dim 20, task=pusht has 5"),
        (KEYPOINTS, ("task.image_size=96",), "task.image_size needs task.obs=image, got 96 with"),
        (
            IMAGE,
            ("task.image_size=96",),
            "does not fit the observations of task=pusht: image.cam must be of 3 x 40 x 40 pixels, "
            "got 3 x 96 x 96 pixels",
        ),
        (IMAGE, ("task.camera=top",), "image.cam of 3 x 40 x 40 pixels is missing; image.top of 3"),
        (CORNERS, ("task.obs=keypoints",), "environment_state of 16 numbers is missing"),
        (
            {"image.a": [3, 40, 40], "image.b": [3, 40, 40], "state": [2]},
            (),
            "image.a of 3 x 40 x 40 pixels is missing; image.b of 3 x 40 x 40 pixels is missing",
        ),
        ({"image.a": [3, 40, 48], "state": [2]}, (), "image.a must be of 3 x 40 x 48 pixels, got"),
    ],
)
def test_what_does_not_fit_is_one_line(
    arrays: dict[str, list[int]],
    more: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(words(policy(tmp_path / "policy", arrays), *more)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_what_a_checkpoint_does_not_say_is_not_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_of(words(policy(tmp_path / "policy", KEYPOINTS)))
    with caplog.at_level(logging.INFO):
        describe(job)
    assert "2 observations, 8 actions, ddim-2" in caplog.text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ("n_envs=1", "n_episodes=20"),
            "costs 8 rows and n_envs=1 fills 1 of them: n_envs=8 would",
        ),
        (("n_envs=2", "n_episodes=3"), "n_envs=2 fills 2 of them: n_envs=3 would"),
        (("n_envs=6", "n_episodes=20"), ""),
        (("n_envs=1", "n_episodes=1"), ""),
        (("n_envs=1", "n_episodes=20", "policy_batch=1"), ""),
    ],
)
def test_empty_rows_of_the_batch_are_said(
    more: tuple[str, ...], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_of(words(policy(tmp_path / "policy", KEYPOINTS), "policy_batch=8", *more))
    with caplog.at_level(logging.INFO):
        describe(job)
    assert ("would give the same" in caplog.text) == bool(said)
    assert said in caplog.text
