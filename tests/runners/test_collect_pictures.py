"""Datasets of episodes with pictures: each array by its name, images as robomimic has them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest
import torch

from envs import Expert, make_task
from runners.collect import lerobot_folder, prepare, robomimic_file
from runners.collect.demos import Demo, DemoSet
from runners.collect.prepare import FORMATS, CollectConfig
from runners.collect.sources import Scripted
from runners.episodes.loop import evaluate
from runners.episodes.trajectory import Trajectory
from runners.jobs.dataset import read_content
from runners.jobs.settings import Settings
from skipstep.observations import ObservationSpec
from tests.helpers.picture import PictureTask, steered
from tests.helpers.places import PROJECT


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


def two_cameras() -> PictureTask:
    return PictureTask(max_steps=4, success_band=0.0, cameras=("top", "wrist"))


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_collected_is_read_again(form: str, tmp_path: Path) -> None:
    """By the reader of trainings, in both formats, with the task's own specification."""
    task = two_cameras()
    demos = recorded(task, tmp_path, (3, 4, 5))
    path = tmp_path / FORMATS[form].default
    FORMATS[form].write(path, DemoSet(task, demos, 0.4, "run"))
    data, _ = read_content([str(path)], "auto", (), task)
    assert list(data.obs) == ["state", "image.top", "image.wrist"]
    assert data.ends.tolist() == [4, 8, 12]
    written = [demo.load() for demo in demos]
    for name in task.obs_spec:
        expected = np.concatenate([steps.obs[name][:-1] for steps in written])
        kind = np.uint8 if name in task.obs_spec.images else np.float32
        np.testing.assert_array_equal(data.obs[name][:], expected.astype(kind))
    actions = np.concatenate([steps.actions for steps in written])
    np.testing.assert_array_equal(data.action, actions.astype(np.float32))


def test_lerobot_has_images_as_its_own_folders_do(tmp_path: Path) -> None:
    """The types of the columns and what info.json says are those of LeRobot's `image_folder`."""
    pq = pytest.importorskip("pyarrow.parquet")
    task = two_cameras()
    demos = recorded(task, tmp_path)
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        lerobot_folder.write(folder, DemoSet(task, demos, 0.0, "run"))
    name = lerobot_folder.DATA.format(chunk_index=0, file_index=0)
    assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    theirs = PROJECT / "tests/data/lerobot_datasets/0.4.4_image"
    key = "observation.images.top"
    ours, own = (pq.read_schema(folder / name).field(key) for folder in (folders[0], theirs))
    assert ours.type == own.type
    ours, own = (
        json.loads((folder / "meta/info.json").read_text())["features"][key]
        for folder in (folders[0], theirs)
    )
    assert ours == {**own, "shape": [12, 16, 3]}
    rows = pq.read_table(folders[0] / name)[key].to_pylist()
    assert [row["path"] for row in rows] == [f"frame-{i:06d}.png" for i in range(4)] * 2


def test_statistics_of_images_are_of_every_pixel(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    task = two_cameras()
    demos = recorded(task, tmp_path)
    lerobot_folder.write(tmp_path / "set", DemoSet(task, demos, 0.0, "run"))
    stats = json.loads((tmp_path / "set/meta/stats.json").read_text())
    episodes = pq.read_table(tmp_path / "set" / lerobot_folder.EPISODES).to_pylist()
    loaded = [demo.load().obs["image.wrist"][:-1] / 255 for demo in demos]
    key = "observation.images.wrist"
    cases = [(stats[key], np.concatenate(loaded))]
    for row, pixels in zip(episodes, loaded, strict=True):
        cases.append(({n: row[f"stats/{key}/{n}"] for n in stats[key]}, pixels))
    for found, pixels in cases:
        channels = pixels.transpose(1, 0, 2, 3).reshape(3, -1)
        assert found["count"] == [len(pixels)]
        for name in ("min", "max", "mean", "std"):
            assert np.shape(found[name]) == (3, 1, 1)
            expected = getattr(channels, name)(axis=1)
            np.testing.assert_allclose(np.ravel(found[name]), expected, atol=1e-9)
        for name, share in lerobot_folder.QUANTILES.items():
            expected = np.quantile(channels, share, axis=1, method="inverted_cdf")
            np.testing.assert_allclose(np.ravel(found[name]), expected, atol=1e-9)


def test_a_package_for_images_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"PIL"}
    found = prepare.find_spec
    monkeypatch.setattr(prepare, "find_spec", lambda name: None if name in missing else found(name))
    config = CollectConfig(source="policy", format="lerobot")
    job: Any = SimpleNamespace(task=two_cameras(), settings=Settings())
    with pytest.raises(ValueError, match=r'^runner\.format=lerobot needs PIL: pip install "skips'):
        prepare._check(config, job)
    job.task = PictureTask(cameras=())
    prepare._check(config, job)


def test_a_training_on_pictures_reads_what_an_expert_recorded_beside_numbers(
    tmp_path: Path,
) -> None:
    task = make_task("lift", obs="image", image_size=16, cameras=["agentview"], max_steps=3)
    shown = task.for_expert()
    assert shown.expert is not None
    (episode,) = evaluate(Scripted(shown.expert), shown, [3], 1, 0, policy_batch=1, record=True)
    assert isinstance(episode.trajectory, Trajectory)
    episode.trajectory.save(tmp_path / "3.npz")
    demos = [Demo(3, True, 0.0, tmp_path / "3.npz")]
    robomimic_file.write(tmp_path / "set.hdf5", DemoSet(shown, demos, 0.0, "run"))
    with h5py.File(tmp_path / "set.hdf5") as file:
        assert file["data/demo_0/obs/object"].shape == (3, 10)
        assert file["data/demo_0/obs/agentview_image"].shape == (3, 16, 16, 3)
    data, _ = read_content([str(tmp_path / "set.hdf5")], "auto", (), task)
    assert isinstance(data.obs, dict)
    assert list(data.obs) == list(task.obs_spec) == ["state", "image.agentview"]
