"""Datasets: what the expert does, what is recorded, both formats, and going on after a kill."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from envs import KitchenTask, LiftConfig, LiftTask
from envs.robosuite.experts.lift import lift_action
from envs.robosuite.world import RobosuiteEnv
from envs.task import FloatArray
from runners.cli import run as run_cli
from runners.collect import lerobot_folder
from runners.collect.demos import Demo, DemoSet
from runners.collect.run import disturbance, episode_sigma
from runners.episodes.loop import evaluate
from runners.episodes.trajectory import Trajectory
from tests.helpers import wandb_file
from tests.helpers.here import run_here
from tests.helpers.toy import ToyTask
from tests.runners import test_runs

PARTS = {"object": 10, "robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}
LIFT = (
    *("runner=collect", "task=lift", "n_episodes=3", "runner.noise=0.3", "threads=1"),
    *("logger=none", "videos=0"),
)


@pytest.fixture(scope="module")
def env() -> RobosuiteEnv:
    env = RobosuiteEnv(LiftTask())
    env.reset(seed=0)
    return env


@pytest.mark.parametrize("seed", [0, 4, 10, 19])
def test_the_expert_lifts(seed: int, env: RobosuiteEnv) -> None:
    obs, _ = env.reset(seed=seed)
    before, terminated = obs, False
    while not terminated and env.n_steps < 60:
        action = lift_action(np.stack([before, obs]))
        before = obs
        obs, _, terminated, _, _ = env.step(action)
    assert terminated
    assert 26 <= env.n_steps <= 40


class Constant:
    """Says the same five actions whatever it sees."""

    n_obs_steps = 1
    n_action_steps = 5

    def act(self, obs: torch.Tensor, noise: Any) -> torch.Tensor:
        return torch.arange(10.0).reshape(5, 2).expand(len(obs), 5, 2)


def test_an_episode_that_ends_inside_a_chunk_is_recorded_up_to_there() -> None:
    task = ToyTask(max_steps=7, success_band=0.0)
    disturb = disturbance(0, 0.5)
    (result,) = evaluate(Constant(), task, [3], 1, 0, disturb=disturb, record=True)
    steps = result.trajectory
    assert isinstance(steps, Trajectory)
    assert [x.shape for x in (steps.obs, steps.actions, steps.executed)] == [(8, 3), (7, 2), (7, 2)]
    chunk = np.arange(10.0).reshape(5, 2)
    np.testing.assert_array_equal(steps.actions, np.concatenate([chunk, chunk[:2]]))
    second = disturb(3, 1, chunk)[:2]
    np.testing.assert_array_equal(steps.executed[5:], second)
    assert steps.states.shape == (8, 0)
    assert steps.dones.tolist() == [0.0] * 6 + [1.0]
    assert "trajectory" not in result.record()


def test_without_being_asked_nothing_is_recorded() -> None:
    (result,) = evaluate(Constant(), ToyTask(max_steps=5), [3], 1, 0)
    assert result.trajectory is None


def test_the_noise_belongs_to_the_episode() -> None:
    actions, noisy = np.zeros((1000, 7)), disturbance(0, 0.3)
    for seed in range(5):
        sigma = episode_sigma(0, seed, 0.3)
        assert 0.0 <= sigma <= 0.3
        assert np.std(noisy(seed, 0, actions)) == pytest.approx(sigma, rel=0.05)
        np.testing.assert_array_equal(noisy(seed, 4, actions), noisy(seed, 4, actions))
        assert np.abs(noisy(seed, 4, actions) - noisy(seed, 5, actions)).max() > 0
    assert disturbance(0, 0.0)(1, 1, actions) is actions


@pytest.mark.parametrize(("n", "share", "expected"), [(1, 0.1, 0), (2, 0.1, 1), (50, 0.1, 5)])
def test_some_episodes_are_held_out(n: int, share: float, expected: int) -> None:
    demos = [Demo(i, True, 0.0, Path()) for i in range(n)]
    valid = DemoSet(LiftTask(), demos, share, "").valid()
    assert len(set(valid)) == expected
    assert set(valid) <= set(range(n))


def collect(folder: Path, *overrides: str) -> Path:
    """The run folder of a collection by the command line."""
    assert "dataset" in run_here(folder, *LIFT, *overrides)
    (run_folder,) = (folder / "multirun/main").iterdir()
    return run_folder


@pytest.fixture(scope="module")
def lift(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three noisy episodes, in both formats; the second run takes up the first one's episodes."""
    folder = tmp_path_factory.mktemp("lift")
    found = collect(folder, "n_envs=2")
    written = [p.stat().st_mtime_ns for p in sorted(found.glob("trajectories/*"))]
    assert collect(folder, "runner.format=lerobot") == found
    assert [p.stat().st_mtime_ns for p in sorted(found.glob("trajectories/*"))] == written
    return found


def trajectories(folder: Path) -> list[Trajectory]:
    return [Trajectory.load(folder / "trajectories" / f"{seed}.npz") for seed in range(3)]


def test_the_run_folder_says_what_was_collected(lift: Path) -> None:
    result = json.loads((lift / "result.json").read_text())
    assert result["n_demos"] == 3
    assert result["n_transitions"] == sum(len(t) for t in trajectories(lift))
    assert json.loads((lift / "status.json").read_text())["status"] == "finished"
    assert lift.name.startswith("collect_lift_none_none_s0_")
    assert not list(lift.rglob(".*.tmp"))


def test_labels_are_clean_and_what_was_executed_is_not(lift: Path) -> None:
    for seed, steps in enumerate(trajectories(lift)):
        history = np.concatenate([steps.obs[:1], steps.obs]).astype(np.float32)
        labels = [lift_action(history[i : i + 2].astype(np.float64)) for i in range(len(steps))]
        np.testing.assert_array_equal(steps.actions, labels)
        off = steps.executed - steps.actions
        assert np.std(off) == pytest.approx(episode_sigma(0, seed, 0.3), rel=0.3)


def test_the_robomimic_file_field_by_field(lift: Path) -> None:
    with h5py.File(lift / "dataset.hdf5") as file:
        data = file["data"]
        assert sorted(data) == ["demo_0", "demo_1", "demo_2"]
        assert data.attrs["total"] == sum(len(t) for t in trajectories(lift))
        for i, steps in enumerate(trajectories(lift)):
            demo = data[f"demo_{i}"]
            assert demo.attrs["num_samples"] == len(steps)
            assert demo.attrs["seed"] == i
            assert demo.attrs["model_file"].startswith("<mujoco")
            np.testing.assert_array_equal(demo["actions"], steps.actions)
            np.testing.assert_array_equal(demo["executed_actions"], steps.executed)
            np.testing.assert_array_equal(demo["rewards"], steps.rewards)
            assert demo["dones"][:].tolist() == [0] * (len(steps) - 1) + [1]
            assert demo["rewards"][-1] == 1.0
            assert demo["states"].shape == (len(steps), 32)
            assert {k: v.shape[1] for k, v in demo["obs"].items()} == PARTS
            for part, rows in (("obs", steps.obs[:-1]), ("next_obs", steps.obs[1:])):
                joined = np.concatenate([demo[part][key] for key in PARTS], axis=1)
                np.testing.assert_array_equal(joined, rows)
        names = {name: [n.decode() for n in file[f"mask/{name}"]] for name in ("train", "valid")}
    assert names == {"train": ["demo_0", "demo_2"], "valid": ["demo_1"]}


def test_the_recorded_arguments_make_the_same_environment(lift: Path) -> None:
    task = LiftTask(LiftConfig(env_args=str(lift / "dataset.hdf5")))
    assert task.arguments == LiftTask().arguments
    with h5py.File(lift / "dataset.hdf5") as file:
        recorded = json.loads(file["data"].attrs["env_args"])
    assert (recorded["env_name"], recorded["type"]) == ("Lift", 1)
    assert recorded["env_kwargs"]["controller_configs"]["control_delta"] is True


def restored(env: RobosuiteEnv, model: str, state: FloatArray) -> FloatArray:
    """The simulator as robomimic's reset_to puts it; the observation there."""
    sim_env = env.sim_env
    sim_env.reset()
    sim_env.reset_from_xml_string(sim_env.edit_model_xml(model))
    sim_env.sim.reset()
    sim_env.sim.set_state_from_flattened(state)
    sim_env.sim.forward()
    robot = sim_env.robots[0]  # its null space goes to where the episode began
    robot.controller.update_initial_joints(sim_env.sim.data.qpos[robot._ref_joint_pos_indexes])
    return env.task.state(env)


def test_recorded_states_and_actions_replay_the_episode(lift: Path, env: RobosuiteEnv) -> None:
    with h5py.File(lift / "dataset.hdf5") as file:
        demo = file["data/demo_2"]
        model, states = demo.attrs["model_file"], demo["states"][:]
        executed, after = demo["executed_actions"][:], demo["next_obs/object"][:]
    np.testing.assert_array_equal(restored(env, model, states[0]), states[0])
    lifted = 0.0
    for action, expected in zip(executed, after, strict=True):
        obs, lifted, _, _, _ = env.step(action)
        np.testing.assert_allclose(obs[:10], expected, atol=1e-5)
    assert lifted == 1.0


def test_the_lerobot_folder_field_by_field(lift: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    root, steps = lift / "dataset", trajectories(lift)
    total = sum(len(t) for t in steps)
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_frames"]) == ("v3.0", 20, total)
    assert (info["total_episodes"], info["splits"]) == (3, {"train": "0:3"})
    frames = pq.read_table(root / info["data_path"].format(chunk_index=0, file_index=0))
    assert set(frames.column_names) == set(info["features"])
    for key, feature in info["features"].items():
        column = np.array(frames[key].to_pylist())
        assert column.shape == (total, *([n for n in feature["shape"] if n > 1])), key
        kind = frames.schema.field(key).type
        kind = kind.value_type if feature["shape"] != [1] else kind
        assert np.dtype(kind.to_pandas_dtype()) == np.dtype(feature["dtype"])

    def column(key: str) -> Any:
        return np.array(frames[key].to_pylist())

    obs = np.concatenate([t.obs[:-1] for t in steps])
    np.testing.assert_array_equal(column("observation.state"), obs.astype(np.float32))
    labels = np.concatenate([t.actions for t in steps])
    np.testing.assert_array_equal(column("action"), labels.astype(np.float32))
    states = np.concatenate([t.states[:-1] for t in steps])
    np.testing.assert_array_equal(column("simulator_state"), states)
    assert column("index").tolist() == list(range(total))
    assert column("next.done").sum() == column("next.success").sum() == 3
    np.testing.assert_allclose(column("timestamp"), column("frame_index") / 20, atol=1e-6)
    episodes = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [e["length"] for e in episodes] == [len(t) for t in steps]
    for before, after in itertools.pairwise(episodes):
        assert before["dataset_to_index"] == after["dataset_from_index"]
    for e in episodes:
        rows = column("episode_index")[e["dataset_from_index"] : e["dataset_to_index"]]
        assert set(rows) == {e["episode_index"]}
        assert e["tasks"] == ["Lift the cube."]
        assert e["stats/action/count"] == [e["length"]]
    stats = json.loads((root / "meta/stats.json").read_text())
    assert set(stats) == set(info["features"])
    np.testing.assert_allclose(stats["action"]["mean"], column("action").mean(0), atol=1e-6)
    np.testing.assert_allclose(stats["action"]["max"], column("action").max(0))
    tasks = pq.read_table(root / "meta/tasks.parquet")
    assert tasks.to_pylist() == [{"task_index": 0, "task": "Lift the cube."}]


def test_pandas_finds_the_task_by_its_words(lift: Path) -> None:
    pd = pytest.importorskip("pandas")
    tasks = pd.read_parquet(lift / "dataset/meta/tasks.parquet")
    assert tasks.loc["Lift the cube."].task_index == 0


def test_robomimic_reads_the_file(lift: Path) -> None:
    pytest.importorskip("robomimic")
    import robomimic.utils.obs_utils as obs_utils
    from robomimic.utils.dataset import SequenceDataset

    obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": list(PARTS), "rgb": []}})
    dataset = SequenceDataset(
        hdf5_path=str(lift / "dataset.hdf5"),
        obs_keys=list(PARTS),
        dataset_keys=("actions", "rewards", "dones"),
        load_next_obs=True,
        frame_stack=2,
        seq_length=16,
        pad_frame_stack=True,
        pad_seq_length=True,
        filter_by_attribute="train",
    )
    steps = trajectories(lift)
    assert len(dataset) == len(steps[0]) + len(steps[2])
    assert dataset[0]["actions"].shape == (17, 7)
    assert dataset[0]["obs"]["object"].shape == (17, 10)


def test_lerobot_reads_the_folder(lift: Path) -> None:
    pytest.importorskip("lerobot")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset("local/lift", root=lift / "dataset")
    steps = trajectories(lift)
    assert len(dataset) == sum(len(t) for t in steps)
    assert dataset[3]["task"] == "Lift the cube."
    np.testing.assert_array_equal(dataset[3]["action"], steps[0].actions[3].astype(np.float32))


def test_lerobot_reads_a_rate_that_is_no_integer(tmp_path: Path) -> None:
    pytest.importorskip("lerobot")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    root, rng, demos = tmp_path / "set", np.random.default_rng(0), []
    for seed, n in enumerate((30, 280)):
        obs, states = rng.normal(size=(2, n + 1, 60))
        actions = rng.normal(size=(n, 9))
        steps = Trajectory(obs, actions, actions, np.zeros(n), states, "")
        steps.save(tmp_path / f"{seed}.npz")
        demos.append(Demo(seed, True, 0.0, tmp_path / f"{seed}.npz"))
    lerobot_folder.write(root, DemoSet(KitchenTask(), demos, 0.1, ""))
    deltas = {"observation.state": [-0.08, 0.0], "action": [i / 12.5 for i in range(16)]}
    dataset = LeRobotDataset("local/kitchen", root=root, delta_timestamps=deltas)
    assert dataset.fps == 12.5
    for i in range(0, 280, 13):
        row, rows = dataset[30 + i], np.clip(np.arange(i, i + 16), 0, 279)
        assert float(row["timestamp"]) == pytest.approx(i * 0.08, abs=1e-4)
        np.testing.assert_array_equal(row["action"], steps.actions[rows].astype(np.float32))
        np.testing.assert_array_equal(row["observation.state"][1], steps.obs[i].astype("f4"))


KITCHEN = (
    *("runner=collect", "runner.source=policy", "runner.success_only=false"),
    *("videos=0", "logger=none"),
)


def kitchen_folder(root: Path) -> Path:
    (folder,) = (root / "multirun/main").iterdir()
    return folder


def test_a_killed_collection_goes_on_and_gives_the_same_bytes(tmp_path: Path) -> None:
    calm, cut = tmp_path / "calm", tmp_path / "cut"
    calm.mkdir()
    cut.mkdir()
    test_runs.run(calm, *KITCHEN, "n_envs=3")
    process, children = test_runs.start(cut, *KITCHEN, "n_envs=1")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    test_runs.assert_gone(children)
    assert 4 <= len(list((kitchen_folder(cut) / "trajectories").glob("*.npz"))) < 12
    test_runs.run(cut, *KITCHEN, "n_envs=2")
    names = ["dataset.hdf5", *(f"trajectories/{seed}.npz" for seed in range(12))]
    for name in names:
        expected = (kitchen_folder(calm) / name).read_bytes()
        assert (kitchen_folder(cut) / name).read_bytes() == expected, name
    with h5py.File(kitchen_folder(cut) / "dataset.hdf5") as file:
        assert file["data"].attrs["total"] == 12 * 20
        demo = file["data/demo_11"]
        assert demo["obs/obs"].shape == demo["next_obs/obs"].shape == (20, 60)
        assert (demo["actions"].shape, demo["states"].shape) == ((20, 9), (20, 59))
        assert demo.attrs["seed"] == 11
        assert "model_file" not in demo.attrs


def test_wandb_and_the_videos_say_what_was_collected(lift: Path, tmp_path: Path) -> None:
    folder = collect(tmp_path, "logger=offline", "videos=1", "n_episodes=2", "runner.noise=0.3")
    assert folder.name == lift.name
    for seed in range(2):  # filming changes nothing
        name = f"trajectories/{seed}.npz"
        assert (folder / name).read_bytes() == (lift / name).read_bytes()
    assert [p.name for p in folder.glob("videos/*")] == ["0.mp4"]
    assert (folder / "videos/0.mp4").stat().st_size > 1000
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    logged = wandb_file.read(file)
    rows = [row for row in logged["history"] if "test/success_rate" in row]
    assert [(row["episode"], row["test/success_rate"]) for row in rows] == [(1, 1.0), (2, 1.0)]
    assert logged["summary"]["success_rate"] == 1.0
    assert logged["summary"]["n_demos"] == 2
    assert logged["exit"] == 0


def test_ctrl_c_leaves_whole_files_and_force_starts_anew(tmp_path: Path) -> None:
    process, children = test_runs.start(tmp_path, *KITCHEN, "n_envs=2")
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    test_runs.assert_gone(children)
    folder = kitchen_folder(tmp_path)
    assert json.loads((folder / "status.json").read_text())["status"] == "interrupted"
    assert not list(folder.rglob(".*.tmp"))
    assert not (folder / "dataset.hdf5").exists()
    kept = {p: p.stat().st_mtime_ns for p in sorted(folder.glob("trajectories/*.npz"))}
    assert 4 <= len(kept) < 12
    assert all(len(Trajectory.load(p)) == 20 for p in kept)
    test_runs.run(tmp_path, *KITCHEN, "n_envs=2")
    assert {p: p.stat().st_mtime_ns for p in kept} == kept, "an episode was run twice"
    written = (folder / "dataset.hdf5").read_bytes()
    test_runs.run(tmp_path, *KITCHEN, "n_envs=2", "force=true", "n_episodes=12")
    assert len(list(folder.glob("previous/0/trajectories/*.npz"))) == 12
    assert (folder / "dataset.hdf5").read_bytes() == written
    assert (folder / "previous/0/result.json").exists()


def test_no_success_is_a_failure_in_one_line(tmp_path: Path) -> None:
    short = ("n_episodes=1", "task.max_steps=5", "runner.noise=0")
    said = run_here(tmp_path, *LIFT, *short, code=1)
    assert "nothing to write: 0 of 1 episodes succeeded" in said
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("dataset*"))


def test_a_file_of_somebody_else_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.hdf5").write_bytes(b"precious")
    assert run_cli([*LIFT, "runner.out=mine.hdf5"]) == 2
    assert "runner.out must be new or of the same run, got mine.hdf5" in capsys.readouterr().err
    assert Path("mine.hdf5").read_bytes() == b"precious"
    assert not Path("multirun").exists()
