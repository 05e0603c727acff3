"""Datasets of each kind, read, refused, split and cut into windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from envs import KitchenConfig, KitchenTask
from envs.kitchen.data import kitchen_from_state
from envs.robosuite.actions import absolute_rows, pose_command
from policies import DatasetError, Windows, check_finite, read_dataset, split_episodes
from tests.helpers.train_files import (
    LENGTHS,
    LIFT,
    episodes,
    write_lerobot,
    write_npz,
    write_robomimic,
)

HANDS = [slice(10, 13)]  # of Lift


def test_robomimic_fields_are_joined_in_the_order_asked_for(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "a.hdf5", lengths=[5] * 12)
    data = read_dataset([path], obs_keys=LIFT)
    written = episodes([5] * 12, [7, *LIFT.values()])
    assert data.names[2] == f"{path}: demo_2"  # by number, not demo_0, demo_1, demo_10
    np.testing.assert_array_equal(data.obs, np.concatenate([np.hstack(w[1:]) for w in written]))
    np.testing.assert_array_equal(data.action, np.concatenate([w[0] for w in written]))
    swapped = read_dataset([path], obs_keys=["robot0_eef_pos", "object"])
    np.testing.assert_array_equal(swapped.obs[:, :3], data.obs[:, 10:13])


def test_lerobot_is_read_across_files(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    data = read_dataset([write_lerobot(tmp_path / "set")])
    written = episodes(LENGTHS, [19, 7])
    assert data.ends.tolist() == np.cumsum(LENGTHS).tolist()
    np.testing.assert_array_equal(data.obs, np.concatenate([w[0] for w in written]))
    np.testing.assert_array_equal(data.action, np.concatenate([w[1] for w in written]))


def test_npz_and_the_kitchen_map(tmp_path: Path) -> None:
    data = read_dataset([write_npz(tmp_path / "a.npz")])
    obs, action = KitchenTask(KitchenConfig(abs_action=True)).convert(data.obs, data.action)
    assert obs.shape == (sum(LENGTHS), 60)
    np.testing.assert_array_equal(obs[:, :9], data.obs[:, :9])
    np.testing.assert_array_equal(obs[:, 9:30], data.obs[:, 18:39])
    assert not obs[:, 30:].any()
    np.testing.assert_allclose(action, data.obs[:, :9] + 2 * data.action * 0.08, rtol=1e-6)
    velocity = kitchen_from_state(data.obs, data.action, abs_action=False)[1]
    np.testing.assert_array_equal(velocity, data.action)


def test_absolute_poses_become_6d_and_back() -> None:
    rng = np.random.default_rng(0)
    poses = rng.uniform(-1, 1, (20, 7)).astype(np.float32)
    obs = np.zeros((20, 19), np.float32)
    obs[:, HANDS[0]] = poses[:, :3]
    _, action = absolute_rows(obs, poses, HANDS, abs_action=True)
    with pytest.raises(ValueError, match=r"look like poses, task\.abs_action=false needs changes"):
        absolute_rows(obs, poses, HANDS, abs_action=False)
    with pytest.raises(ValueError, match=r"look like changes of pose, task\.abs_action=true needs"):
        absolute_rows(obs + 1, poses, HANDS, abs_action=True)
    assert action.shape == (20, 10)
    for pose, ten in zip(poses, action, strict=True):
        back = pose_command(ten.astype(np.float64))
        np.testing.assert_allclose(back[[0, 1, 2, 6]], pose[[0, 1, 2, 6]], atol=1e-6)
        turned = Rotation.from_rotvec(back[3:6]) * Rotation.from_rotvec(pose[3:6]).inv()
        assert turned.magnitude() < 1e-5


def test_windows_equal_padding_each_episode(tmp_path: Path) -> None:
    data = read_dataset([write_npz(tmp_path / "a.npz", lengths=[7, 1, 3, 10])])
    horizon, before, after = 6, 2, 3
    windows = Windows(data, np.array([0, 1, 3]), horizon, before, after)
    expected = []
    for episode in (0, 1, 3):
        steps = np.arange(data.starts[episode], data.ends[episode])
        padded = np.r_[[steps[0]] * before, steps, [steps[-1]] * after]
        expected += [padded[i : i + horizon] for i in range(len(padded) - horizon + 1)]
    assert len(windows) == len(expected) > 10
    obs, action = windows.take(np.arange(len(windows)))
    np.testing.assert_array_equal(obs, data.obs[np.array(expected)])
    np.testing.assert_array_equal(action, data.action[np.array(expected)])


def test_a_repeated_observation_repeats_its_noise(tmp_path: Path) -> None:
    data = read_dataset([write_npz(tmp_path / "a.npz")])
    windows = Windows(data, np.array([0]), 6, 2, 3)
    noise = np.random.default_rng(0).normal(size=(1, 6, 59)).astype(np.float32)
    obs, _ = windows.take(np.array([0]), noise)
    np.testing.assert_array_equal(obs[0, 0], obs[0, 1])
    np.testing.assert_array_equal(obs[0, 0], obs[0, 2])
    assert (obs[0, 2] != obs[0, 3]).all()
    np.testing.assert_allclose(obs[0, 3] - noise[0, 3], data.obs[1], atol=1e-6)


def test_variants_of_a_demonstration_are_on_one_side(tmp_path: Path) -> None:
    original = write_npz(tmp_path / "a.npz", lengths=[5] * 6)
    replays = write_npz(tmp_path / "b.npz", lengths=[4] * 12, source_demo=np.arange(12) % 6)
    data = read_dataset([original, replays])
    for seed in range(5):
        train, valid = split_episodes(data, 0.3, seed)
        assert len(valid) == 3 * 2
        assert sorted([*train, *valid]) == list(range(18))
        assert not set(train % 6) & set(valid % 6)
    train, valid = split_episodes(data, 0.0, 0)
    assert (len(train), len(valid)) == (18, 0)
    assert len(split_episodes(data, 0.99, 0)[0]) == 3
    alone = read_dataset([original, original])  # without source_demo, two files share nothing
    assert len(np.unique(alone.sources)) == 12


def test_masks_are_respected(tmp_path: Path) -> None:
    masks = {"train": ["demo_0", "demo_3"], "valid": ["demo_2"]}
    data = read_dataset([write_robomimic(tmp_path / "a.hdf5", masks=masks)], obs_keys=LIFT)
    train, valid = split_episodes(data, 0.5, 0)
    assert (train.tolist(), valid.tolist()) == ([0, 3], [2])
    path = write_robomimic(tmp_path / "b.hdf5", masks={"train": ["demo_1"]})
    train, valid = split_episodes(read_dataset([path], obs_keys=LIFT), 0.5, 0)
    assert (train.tolist(), valid.tolist()) == ([1], [0, 2, 3])


def test_lerobot_splits_are_slices(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = write_lerobot(tmp_path / "set", splits={"train": "0:3", "valid": "3:4"})
    train, valid = split_episodes(read_dataset([path]), 0.5, 0)
    assert (train.tolist(), valid.tolist()) == ([0, 1, 2], [3])


def damaged_hdf5(path: Path, change: Callable[[h5py.File], None]) -> Path:
    write_robomimic(path)
    with h5py.File(path, "a") as file:
        change(file)
    return path


def _shorter(file: h5py.File) -> None:
    del file["data/demo_2/obs/object"]
    file["data/demo_2/obs/object"] = np.zeros((14, 10))


def _wider(file: h5py.File) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1/actions"] = np.zeros((9, 8))


def _empty(file: h5py.File) -> None:
    for name in ("actions", *(f"obs/{key}" for key in LIFT)):
        n = file[f"data/demo_1/{name}"].shape[1]
        del file[f"data/demo_1/{name}"]
        file[f"data/demo_1/{name}"] = np.zeros((0, n))


def _missing(file: h5py.File) -> None:
    del file["data/demo_3/obs/robot0_eef_quat"]


def _nan(file: h5py.File) -> None:
    file["data/demo_1/obs/robot0_eef_pos"][4, 1] = np.nan


def _no_demos(file: h5py.File) -> None:
    del file["data"]
    file.create_group("data")


def _text(file: h5py.File) -> None:
    del file["data/demo_0/actions"]
    file["data/demo_0/actions"] = np.array(["a"] * 12, "S")


def _overlap(file: h5py.File) -> None:
    for side in ("train", "valid"):
        file[f"mask/{side}"] = np.array(["demo_1"], "S")


HDF5 = {
    _shorter: "demo_2: obs/robot0_eef_pos has 15 steps, obs/object has 14",
    _wider: "demo_1: action has shape (9, 8), ",
    _empty: "demo_1: actions is empty",
    _missing: "demo_3: no obs/robot0_eef_quat in it, it holds actions, obs/object",
    _nan: "demo_1: obs holds NaN or infinite values at step 4",
    _no_demos: "no episodes in it",
    _text: "demo_0: actions must hold (steps, numbers)",
    _overlap: "demo_1 is in mask/train and in mask/valid",
}


@pytest.mark.parametrize("change", HDF5)
def test_a_damaged_hdf5_is_refused(change: Callable[[h5py.File], None], tmp_path: Path) -> None:
    path = damaged_hdf5(tmp_path / "bad.hdf5", change)
    with pytest.raises(DatasetError) as refused:
        read_dataset([path], obs_keys=LIFT)
    assert HDF5[change] in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


NPZ = {
    "no action in it": {"action": None},
    "no obs in it, it holds action, episode_ends": {"state": None},
    "episode_ends is empty": {"episode_ends": np.empty(0, np.int64)},
    "episode_ends must rise to the number of steps": {"episode_ends": np.array([12, 21, 21, 47])},
    "got 46 with 47 steps of action": {"episode_ends": np.array([46])},
    "source_demo has 3 numbers, episode_ends has 4": {"source_demo": np.zeros(3, int)},
    "cannot be read": {"action": np.array([{}])},
}


@pytest.mark.parametrize("message", NPZ)
def test_a_damaged_npz_is_refused(message: str, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "bad.npz", **NPZ[message])
    with pytest.raises(DatasetError) as refused:
        read_dataset([path])
    assert str(path) in str(refused.value)
    assert message in str(refused.value)


def test_files_that_are_something_else_are_refused(tmp_path: Path) -> None:
    whole = write_robomimic(tmp_path / "whole.hdf5").read_bytes()
    cut, text = tmp_path / "cut.hdf5", tmp_path / "a.npz"
    cut.write_bytes(whole[: len(whole) // 2])
    text.write_text("nothing")
    for path in (cut, text):
        with pytest.raises(DatasetError, match="cannot be read"):
            read_dataset([path])
    with pytest.raises(DatasetError, match="no dataset at"):
        read_dataset([tmp_path / "nowhere.npz"])
    with pytest.raises(DatasetError, match=r"a dataset is a \.hdf5, \.h5, \.npz file or a folder"):
        read_dataset([tmp_path])


def test_a_damaged_lerobot_folder_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(DatasetError, match=r"codebase_version must be v2\.x or v3\.x, got 'v1\.6'"):
        read_dataset([write_lerobot(tmp_path / "old", version="v1.6")])
    broken = write_lerobot(tmp_path / "broken")
    with pytest.raises(DatasetError, match=r"no column state, it holds observation\.state, action"):
        read_dataset([broken], obs_keys=["state"])
    (broken / "data/chunk-000/file-001.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match="broken: cannot be read"):
        read_dataset([broken])


def lerobot_with(folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> Path:
    pq = pytest.importorskip("pyarrow.parquet")
    from pyarrow import Table

    write_lerobot(folder, n_files=1)
    file = folder / "data/chunk-000/file-000.parquet"
    rows = pq.read_table(file).to_pylist()
    change(rows)
    pq.write_table(Table.from_pylist(rows, schema=None), file)
    return folder


def _one_nan(rows: list[dict[str, Any]]) -> None:
    rows[14]["action"][3] = float("nan")


def _one_infinity(rows: list[dict[str, Any]]) -> None:
    rows[5]["observation.state"][0] = float("inf")


def _one_short(rows: list[dict[str, Any]]) -> None:
    rows[13]["action"].pop()


def _one_missing(rows: list[dict[str, Any]]) -> None:
    rows[13]["action"] = None


def _another_width(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["episode_index"] == 2:
            row["observation.state"].pop()


def _empty_rows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row["action"] = []


LEROBOT = {
    _one_nan: "episode 1: action holds NaN or infinite values at step 2",
    _one_infinity: "episode 0: obs holds NaN or infinite values at step 5",
    _one_short: "episode 1: action has rows of different sizes ['6', '7']",
    _one_missing: "episode 1: action has rows of different sizes",
    _another_width: "episode 2: obs has shape (15, 18), ",
    _empty_rows: "episode 0: action has rows of no numbers",
}


@pytest.mark.parametrize("change", LEROBOT)
def test_damaged_lerobot_frames_are_refused(
    change: Callable[[list[dict[str, Any]]], None], tmp_path: Path
) -> None:
    path = lerobot_with(tmp_path / "set", change)
    with pytest.raises(DatasetError) as refused:
        read_dataset([path])
    assert LEROBOT[change] in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_empty_lerobot_folder_and_a_broken_info_are_refused(tmp_path: Path) -> None:
    empty = lerobot_with(tmp_path / "empty", lambda rows: None)
    pq = pytest.importorskip("pyarrow.parquet")
    file = empty / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    with pytest.raises(DatasetError, match="empty: no episodes in it"):
        read_dataset([empty])
    file.unlink()
    with pytest.raises(DatasetError, match="empty: no data/chunk"):
        read_dataset([empty])
    for text in (
        "{",
        "[]",
        '{"codebase_version": "v3.0", "splits": {"train": "a:b", "valid": ""}}',
    ):
        broken = write_lerobot(tmp_path / str(len(text)))
        (broken / "meta/info.json").write_text(text)
        with pytest.raises(DatasetError, match=f"{broken}: "):
            read_dataset([broken])


@pytest.mark.parametrize(("field", "width"), [("state", 59), ("action", 9)])
def test_an_npz_with_nan_is_refused(field: str, width: int, tmp_path: Path) -> None:
    values = np.zeros((sum(LENGTHS), width))
    values[LENGTHS[0] + 3, 2] = np.inf
    path = write_npz(tmp_path / "bad.npz", **{field: values})
    shown = {"state": "obs"}.get(field, field)
    with pytest.raises(DatasetError) as refused:
        read_dataset([path])
    said = f"{path}: episode 1: {shown} holds NaN or infinite values at step 3"
    assert str(refused.value) == said


def test_an_npz_of_other_shapes_is_refused(tmp_path: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        "action must hold (steps, numbers)": {"action": np.zeros((sum(LENGTHS), 3, 3))},
        "action must hold (steps, numbers), got": {"action": np.array("a")},
        "episode_ends must hold integers, got float64": {"episode_ends": np.array([12.5, 47])},
        "source_demo must hold integers, got <U1": {"source_demo": np.array(["a"] * 4)},
    }
    for number, (message, change) in enumerate(cases.items()):
        path = write_npz(tmp_path / f"{number}.npz", **change)
        with pytest.raises(DatasetError) as refused:
            read_dataset([path])
        assert f"{path}: {message}" in str(refused.value)


def test_files_of_different_widths_are_refused(tmp_path: Path) -> None:
    a, b = write_npz(tmp_path / "a.npz"), write_npz(tmp_path / "b.npz", action_dim=8)
    with pytest.raises(DatasetError, match=r"b\.npz: episode 0: action has shape \(12, 8\)"):
        read_dataset([a, b])


def test_rows_of_some_episodes(tmp_path: Path) -> None:
    data = read_dataset([write_npz(tmp_path / "a.npz", lengths=[2, 3, 4])])
    assert data.rows(np.array([0, 2])).tolist() == [0, 1, 5, 6, 7, 8]
    assert replace(data, ends=np.array([9])).rows(np.array([0])).tolist() == list(range(9))


BEYOND_FLOAT32 = [1e300, -1e39, 3.5e38, np.finfo(np.float64).max]


@pytest.mark.parametrize("value", BEYOND_FLOAT32)
@pytest.mark.parametrize("field", ["obs", "action"])
@pytest.mark.parametrize("kind", ["npz", "robomimic", "lerobot"])
def test_what_is_infinite_in_float32_is_refused(
    kind: str, field: str, value: float, tmp_path: Path
) -> None:
    if kind == "npz":
        values = np.zeros((sum(LENGTHS), 9))
        values[LENGTHS[0] + 3, 2] = value
        key = {"obs": "state"}.get(field, field)
        path = write_npz(tmp_path / "big.npz", **{key: values})
    elif kind == "robomimic":
        path = write_robomimic(tmp_path / "big.hdf5")
        key = {"obs": "obs/robot0_eef_pos", "action": "actions"}[field]
        with h5py.File(path, "a") as file:
            values = file[f"data/demo_1/{key}"][()].astype(np.float64)
            values[3, 2] = value
            del file[f"data/demo_1/{key}"]
            file[f"data/demo_1/{key}"] = values
    else:
        key = {"obs": "observation.state"}.get(field, field)

        def change(rows: list[dict[str, Any]]) -> None:
            rows[LENGTHS[0] + 3][key][2] = value

        path = lerobot_with(tmp_path / "set", change)
    name = "demo_1" if kind == "robomimic" else "episode 1"
    with pytest.raises(DatasetError) as refused:
        read_dataset([path], obs_keys=LIFT if kind == "robomimic" else None)
    said = f"{path}: {name}: {field} holds {value:g} at step 3, which is infinite in float32"
    assert str(refused.value) == said


def test_the_largest_float32_is_read(tmp_path: Path) -> None:
    values = np.full((sum(LENGTHS), 2), float(np.finfo(np.float32).max))
    data = read_dataset([write_npz(tmp_path / "a.npz", action=values)])
    assert np.isfinite(data.action).all()


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, bool, "S3"])
def test_numbers_are_real(dtype: Any, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz", action=np.zeros((sum(LENGTHS), 2), dtype))
    with pytest.raises(DatasetError, match=r"action must hold \(steps, numbers\), got"):
        read_dataset([path])


def test_a_conversion_that_overflows_is_refused(tmp_path: Path) -> None:
    data = read_dataset([write_npz(tmp_path / "a.npz")])
    action = data.action.copy()
    action[LENGTHS[0] + 4, 1] = np.inf
    check_finite(data)
    with pytest.raises(DatasetError) as refused:
        check_finite(replace(data, action=action))
    assert "a.npz: episode 1: action is NaN or infinite at step 4 once it is" in str(refused.value)
