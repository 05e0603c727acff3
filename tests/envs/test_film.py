"""What stands under the frames of a film."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from envs import EnvPool, make_task
from envs.film import Film, captioned, captions
from tests.helpers.toy import ToyTask


def test_captions_name_task_seed_arm_step_and_subtasks() -> None:
    kitchen = make_task("kitchen")
    done = {"completed_tasks": ["kettle", "light switch"]}
    assert captions(kitchen, 100003, "hash_ab S=10", 12, done) == (
        "kitchen, seed 100003",
        "hash_ab S=10",
        "step 12 of 280; 2 done: kettle, light switch",
    )
    assert captions(kitchen, 1, "", 0, {"completed_tasks": []})[2] == "step 0 of 280; 0 done"
    assert captions(make_task("lift"), 1, "", 3, {})[2].startswith("step 3 of ")


@pytest.mark.parametrize("size", [(96, 96), (256, 256), (480, 640)])
def test_a_frame_gets_a_strip_and_stays_as_it_is(size: tuple[int, int]) -> None:
    pytest.importorskip("PIL.Image")
    frame = np.full((*size, 3), 7, np.uint8)
    found = captioned(frame, ("kitchen, seed 1", "", "step 1 of 280; " + "many words " * 20))
    height, width, _ = found.shape
    assert (found[: size[0]] == frame).all()
    assert (height % 2, width) == (0, size[1])
    strip = found[size[0] :]
    assert strip.max() > 150  # letters
    assert (strip[:, -2:] < 60).all()  # cut before the edge
    other = captioned(frame, ("kitchen, seed 2", "", "step 1 of 280; " + "many words " * 20))
    assert (other != found).any()


def test_every_frame_is_captioned_with_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, ...]] = []

    def note(frame: np.ndarray, words: tuple[str, ...]) -> np.ndarray:
        seen.append(words)
        return frame

    monkeypatch.setattr("envs.film.captioned", note)
    film = Film(tmp_path / "a.mp4", ToyTask(max_steps=4), 5, "bac S=9")
    for _ in range(3):
        film.add(np.zeros((8, 8, 3), np.uint8), {})
    assert [words[2] for words in seen] == ["step 0 of 4", "step 1 of 4", "step 2 of 4"]
    assert {words[:2] for words in seen} == {("toy, seed 5", "bac S=9")}


def test_a_pool_films_with_captions(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    pytest.importorskip("PIL.Image")
    task, path = ToyTask(max_steps=3, success_band=0.0), tmp_path / "1.mp4"
    with EnvPool(task, 1) as pool:
        pool.reset(0, 1, path, "uniform S=10")
        pool.wait()
        pool.step(0, np.zeros((3, task.action_dim)))
        (event,) = pool.wait()
    assert event.video == str(path)
    with av.open(str(path)) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) == 4
    height, width, _ = frames[0].shape
    assert height > width  # the toy's frames are square
    assert frames[0][width:].max() > 100
