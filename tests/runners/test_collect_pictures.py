"""Datasets of episodes with pictures: each array by its name, images as robomimic has them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest
import torch

from envs import Expert
from runners.collect import lerobot_folder, robomimic_file
from runners.collect.demos import Demo, DemoSet
from runners.collect.prepare import CollectConfig, _check
from runners.collect.sources import Scripted
from runners.episodes.loop import evaluate
from runners.episodes.trajectory import Trajectory
from runners.jobs.dataset import read_content
from runners.jobs.settings import Settings
from skipstep.observations import ObservationSpec
from tests.helpers.picture import PictureTask, steered


class Named(PictureTask):
    """Its state has parts with names of their own."""

    obs_parts: ClassVar[dict[str, int]] = {"point": 2, "rest": 1}


def recorded(task: PictureTask, folder: Path, seeds: tuple[int, ...] = (3, 4)) -> list[Demo]:
    demos = []
    scripted = Scripted(Expert(steered, n_obs_steps=2, action_dim=2))
    for episode in evaluate(scripted, task, seeds, 1, 0, policy_batch=1, record=True):
        assert isinstance(episode.trajectory, Trajectory)
        path = folder / f"{episode.seed}.npz"
        episode.trajectory.save(path)
        demos.append(Demo(episode.seed, bool(episode.success), 0.0, path))
    return demos


def test_an_expert_is_shown_what_the_policy_would_be() -> None:
    obs = {
        "state": torch.full((3, 2, 3), 0.5),
        "image.top": torch.full((3, 2, 3, 4, 4), 51, dtype=torch.uint8),
    }
    actions = Scripted(Expert(steered, n_obs_steps=2, action_dim=2)).act(obs, [])
    assert actions.tolist() == [[[0.2, -0.5]]] * 3


def test_robomimic_has_every_array_and_the_same_bytes_again(tmp_path: Path) -> None:
    task = PictureTask(max_steps=4, success_band=0.0, cameras=("top", "wrist"))
    demos = recorded(task, tmp_path)
    files = [tmp_path / name for name in ("one.hdf5", "two.hdf5")]
    for file in files:
        robomimic_file.write(file, DemoSet(task, demos, 0.0, "run"))
    assert files[0].read_bytes() == files[1].read_bytes()
    with h5py.File(files[0]) as file:
        for i, demo in enumerate(demos):
            group, steps = file[f"data/demo_{i}"], demo.load()
            assert sorted(group["obs"]) == sorted(group["next_obs"])
            assert sorted(group["obs"]) == ["obs", "top_image", "wrist_image"]
            for camera in ("top", "wrist"):
                frames = np.moveaxis(steps.obs[f"image.{camera}"], 1, -1)
                assert group[f"obs/{camera}_image"].dtype == np.uint8
                assert group[f"obs/{camera}_image"].shape == (4, 12, 16, 3)
                assert np.array_equal(group[f"obs/{camera}_image"], frames[:-1])
                assert np.array_equal(group[f"next_obs/{camera}_image"], frames[1:])
            assert np.array_equal(group["obs/obs"], steps.obs["state"][:-1])


@pytest.mark.parametrize("kind", [PictureTask, Named])
def test_what_is_collected_is_what_a_training_reads(
    kind: type[PictureTask], tmp_path: Path
) -> None:
    task = kind(max_steps=4, success_band=0.0, cameras=("top", "wrist"))
    demos = recorded(task, tmp_path)
    file = tmp_path / "set.hdf5"
    robomimic_file.write(file, DemoSet(task, demos, 0.0, "run"))
    data, _ = read_content([str(file)], "auto", (), task)
    assert isinstance(data.obs, dict)
    assert list(data.obs) == ["state", "image.top", "image.wrist"]
    for name, array in data.obs.items():
        seen = np.concatenate([demo.load().obs[name][:-1] for demo in demos])
        read = array if name == "state" else array[np.arange(len(seen))]
        assert np.array_equal(read, seen.astype(np.float32) if name == "state" else seen)


def test_a_tasks_names_are_those_of_parts_of_the_state(tmp_path: Path) -> None:
    task = Named(max_steps=3, success_band=0.0)
    parts = DemoSet(task, [], 0.0, "").parts(recorded(task, tmp_path, (3,))[0].load().obs)
    assert {name: array.shape for name, array in parts.items()} == {
        "point": (4, 2),
        "rest": (4, 1),
        "image.top": (4, 3, 12, 16),
    }


class Numbers(PictureTask):
    @property
    def obs_spec(self) -> ObservationSpec:
        return ObservationSpec.of({"state": 3, "environment_state": 2}, self.control_hz)


def test_lerobot_has_arrays_of_numbers_by_its_names(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    environment = np.array([0.25, 0.5])
    task = Numbers(max_steps=3, cameras=(), instead={"environment_state": environment})

    def still(seen: Any) -> np.ndarray:
        return np.zeros(2)

    scripted = Scripted(Expert(still, n_obs_steps=1, action_dim=2))
    (episode,) = evaluate(scripted, task, [3], 1, 0, policy_batch=1, record=True)
    assert isinstance(episode.trajectory, Trajectory)
    episode.trajectory.save(tmp_path / "3.npz")
    demos = [Demo(3, True, 0.0, tmp_path / "3.npz")]
    lerobot_folder.write(tmp_path / "set", DemoSet(task, demos, 0.0, "run"))
    name = lerobot_folder.DATA.format(chunk_index=0, file_index=0)
    rows = pq.read_table(tmp_path / "set" / name).to_pydict()
    assert rows["observation.environment_state"] == [[0.25, 0.5]] * len(episode.trajectory)
    states = episode.trajectory.obs["state"][:-1].astype(np.float32)
    assert np.array_equal(np.array(rows["observation.state"], np.float32), states)


@pytest.mark.parametrize(("cameras", "refused"), [(("top",), True), ((), False)])
def test_lerobot_with_images_is_refused_by_name(cameras: tuple[str, ...], refused: bool) -> None:
    config = CollectConfig(source="policy", format="lerobot")
    job: Any = SimpleNamespace(task=PictureTask(cameras=cameras), settings=Settings())
    if not refused:
        _check(config, job)
        return
    with pytest.raises(ValueError, match=r"^runner\.format must be robomimic .*\(image\.top\)"):
        _check(config, job)
