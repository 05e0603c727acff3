"""A film that cannot be made says why, with what to install, and never ends an episode."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from envs.video import BACKENDS, TURNED_OFF, rendering_words, turn_off_what_cannot_be_loaded
from runners.episodes.episode import EpisodeResult
from runners.episodes.loop import evaluate
from tests.helpers.places import PROJECT
from tests.helpers.toy import ToyTask
from tests.helpers.unfilmable import Unfilmable, crash, fail, full


class Still:
    """A policy that does nothing."""

    n_obs_steps, n_action_steps = 1, 4

    def act(self, obs: Any, noise: Any) -> Any:
        return torch.zeros(len(obs), 4, 2)


def played(task: ToyTask, folder: Path) -> EpisodeResult:
    (episode,) = evaluate(
        Still(), task, [7], 1, 0, policy_batch=1, video_of=lambda seed: folder / f"{seed}.mp4"
    )
    return episode


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> EpisodeResult:
    episode = played(ToyTask(success_band=0, max_steps=8), tmp_path_factory.mktemp("filmed"))
    assert episode.video
    assert Path(episode.video).is_file()
    return episode


@pytest.mark.parametrize(
    ("when", "how"),
    [("made", fail), (0, fail), (1, fail), (4, full), ("made", crash), (0, crash)],
)
def test_an_episode_ends_as_it_does_without_a_film(
    when: str | int,
    how: Any,
    plain: EpisodeResult,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        episode = played(
            Unfilmable(success_band=0, max_steps=8, when=when, how=how), tmp_path / "not"
        )
    assert (episode.status, episode.score, episode.n_steps) == ("ok", plain.score, plain.n_steps)
    assert episode.video is None
    assert not list(tmp_path.glob("not/*"))
    said = [r.message for r in caplog.records if "has no film" in r.message]
    if how is not crash:  # then all that is known is that the worker died
        assert len(said) == 1
        assert "\n" not in said[0]
        words = {fail: "renders nothing here", full: "No space left on device"}[how]
        assert words in said[0]
    assert episode.attempts == (2 if how is crash else 1)


def test_a_video_that_cannot_be_written_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    with caplog.at_level(logging.WARNING):
        episode = played(ToyTask(success_band=0, max_steps=8), tmp_path / "file")
    assert (episode.status, episode.video) == ("ok", None)
    assert "seed 7 has no film: " in caplog.text


@pytest.mark.parametrize("backend", [*BACKENDS, "nonsense"])
def test_each_backend_has_its_remedy(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", backend)
    monkeypatch.delenv(TURNED_OFF, raising=False)
    said = rendering_words(RuntimeError("no OpenGL\ncontext"))
    assert said.startswith(f"MUJOCO_GL={backend} renders nothing here: ")
    assert BACKENDS.get(backend, "MUJOCO_GL must be egl, osmesa or glfw") in said
    assert said.endswith("(RuntimeError: no OpenGL context)")
    assert rendering_words(ValueError("of something else")) == "ValueError: of something else"


def test_osmesa_that_is_not_there_is_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envs.video.find_library", lambda name: None)
    monkeypatch.setenv(TURNED_OFF, "")  # so that it is what it was afterwards
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    turn_off_what_cannot_be_loaded()
    assert "MUJOCO_GL" not in os.environ
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    turn_off_what_cannot_be_loaded()
    assert os.environ["MUJOCO_GL"] == "disabled"
    assert "apt-get install -y libosmesa6" in rendering_words(RuntimeError("no OpenGL"))


REAL = """
from pathlib import Path
from envs import make_task
from envs.worker import Host
host = Host(0, make_task("kitchen", max_steps=4))
filmed, plain = host.reset(1, Path("a.mp4")), host.reset(1, None)
assert (filmed.obs == plain.obs).all()
assert not plain.no_film
print(filmed.no_film)
"""


def test_a_real_world_without_a_renderer(tmp_path: Path) -> None:
    of = {**os.environ, "MUJOCO_GL": "disabled", "PYTHONPATH": str(PROJECT)}
    words = [sys.executable, "-c", REAL]
    done = subprocess.run(words, env=of, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "MUJOCO_GL=disabled renders nothing here: MUJOCO_GL=egl renders" in done.stdout
    assert done.stdout.count("\n") == 1
