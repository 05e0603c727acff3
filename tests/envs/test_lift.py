"""Lift: what the policy sees, both kinds of action, recorded arguments, and the same seed twice."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from envs import LiftConfig, LiftTask, make_task
from envs.robosuite.actions import OSC_POSE, pose_command
from envs.robosuite.world import RobosuiteEnv
from envs.task import FloatArray
from tests.helpers.places import PROJECT


@pytest.fixture(scope="module")
def env() -> RobosuiteEnv:
    return RobosuiteEnv(LiftTask())


class Expert:
    """Above the cube, down, close, up; the gripper is positive to close."""

    def __init__(self) -> None:
        self.closing = 0

    def __call__(self, obs: FloatArray) -> FloatArray:
        offset = obs[7:10]
        level = np.linalg.norm(offset[:2]) < 0.01
        goal = np.array([0.0, 0.0, 0.0 if level else 0.08])
        self.closing += bool(level and offset[2] < 0.01) or self.closing > 0
        move = 12.0 * (goal - offset)
        if self.closing:
            move = np.array([0.0, 0.0, 0.0 if self.closing < 8 else 1.0])
        grip = 1.0 if self.closing else -1.0
        return np.concatenate([np.clip(move, -1.0, 1.0), np.zeros(3), [grip]])


def test_the_observation_is_the_one_of_robomimic_data(env: RobosuiteEnv) -> None:
    obs, _ = env.reset(seed=5)
    assert obs.shape == (19,)
    assert obs.dtype == np.float64
    cube, cube_quat, offset, hand, hand_quat = np.split(obs[:17], [3, 7, 10, 13])
    np.testing.assert_array_equal(offset, hand - cube)
    assert np.linalg.norm(cube_quat) == pytest.approx(1.0)
    assert np.linalg.norm(hand_quat) == pytest.approx(1.0)
    assert 0.82 <= cube[2] <= 0.84


def test_the_expert_lifts_and_the_episode_ends_there(env: RobosuiteEnv) -> None:
    obs, _ = env.reset(seed=2)
    expert = Expert()
    rewards: list[float] = []
    terminated = False
    while not terminated and len(rewards) < 80:
        obs, reward, terminated, truncated, info = env.step(expert(obs))
        rewards.append(reward)
        assert not truncated
    assert terminated
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]
    score = env.task.score(np.array(rewards), info)
    assert (score.success, score.score, score.details) == (True, 1.0, {})


def test_failure_and_metrics() -> None:
    task = LiftTask()
    assert not task.score(np.zeros(400), {}).success
    assert task.score(np.zeros(0), {}).score == 0.0
    assert task.metrics([{}, {}]) == {}


def test_an_episode_is_truncated() -> None:
    env = RobosuiteEnv(LiftTask(LiftConfig(max_steps=2)))
    env.reset(seed=0)
    assert [env.step(np.zeros(7))[2:4] for _ in range(2)] == [(False, False), (False, True)]


def test_the_rotation_is_the_first_two_rows() -> None:
    matrices = Rotation.random(50, rng=np.random.default_rng(1)).as_matrix()
    for matrix in matrices:
        six = matrix[:2] * [[3.0], [0.5]]
        six[1] += 0.2 * matrix[0]  # neither unit nor orthogonal, as a policy gives it
        action = np.concatenate([[1.0, 2.0, 3.0], six.ravel(), [-1.0]])
        command = pose_command(action)
        np.testing.assert_array_equal(command[[0, 1, 2, 6]], [1.0, 2.0, 3.0, -1.0])
        np.testing.assert_allclose(Rotation.from_rotvec(command[3:6]).as_matrix(), matrix)


def write_env_args(path: Path, text: str) -> str:
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = text
    return str(path)


def recorded(**changes: Any) -> dict[str, Any]:
    """What robomimic's low-dimensional Lift data holds."""
    kwargs = {
        "has_renderer": False,
        "has_offscreen_renderer": False,
        "ignore_done": True,
        "use_object_obs": True,
        "use_camera_obs": False,
        "control_freq": 20,
        "controller_configs": dict(OSC_POSE),
        "robots": ["Panda"],
        "camera_depths": False,
        "camera_heights": 84,
        "camera_widths": 84,
        "reward_shaping": False,
    }
    return {"env_name": "Lift", "type": 1, "env_version": "1.4.1", "env_kwargs": kwargs | changes}


def test_absolute_actions_from_recorded_arguments_reach_the_pose(tmp_path: Path) -> None:
    controller = OSC_POSE | {"control_delta": False}
    path = write_env_args(
        tmp_path / "abs.hdf5", json.dumps(recorded(controller_configs=controller))
    )
    task = LiftTask(LiftConfig(env_args=path))
    assert (task.abs_action, task.action_dim) == (True, 10)
    env = RobosuiteEnv(task)
    obs, _ = env.reset(seed=5)
    rotation = env.sim_env.robots[0].controller.ee_ori_mat.copy()
    target = obs[10:13] + np.array([0.03, -0.04, 0.05])
    action = np.concatenate([target, rotation[:2].ravel(), [-1.0]])
    for _ in range(25):
        obs, *_ = env.step(action)
    assert np.linalg.norm(obs[10:13] - target) < 0.005
    turned = Rotation.from_matrix(rotation.T @ env.sim_env.robots[0].controller.ee_ori_mat)
    assert np.degrees(turned.magnitude()) < 2.0


def test_recorded_arguments_are_used(tmp_path: Path) -> None:
    path = write_env_args(tmp_path / "lift.hdf5", json.dumps(recorded(control_freq=10)))
    task = LiftTask(LiftConfig(env_args=path))
    assert (task.action_dim, task.control_hz, task.abs_action) == (7, 10.0, False)
    assert task.arguments == {"control_freq": 10, "controller_configs": OSC_POSE}
    assert pickle.loads(pickle.dumps(task)).arguments == task.arguments
    both = LiftTask(LiftConfig(env_args=path, abs_action=True))
    assert both.action_dim == 10
    assert both.arguments["controller_configs"] == OSC_POSE | {"control_delta": False}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be an HDF5 with JSON"),
        ("[]", "must be a dictionary"),
        (json.dumps(recorded() | {"env_name": "Can"}), r"env_name 'Lift' .* got \('Can', 1\)"),
        (json.dumps(recorded() | {"type": 2}), r"type 1 \(robosuite\), got \('Lift', 2\)"),
        (json.dumps(recorded(robots=["Sawyer"])), r"one robot, Panda, got \['Sawyer'\]"),
        (json.dumps(recorded(gravity=0, wind=3)), "known here, got gravity, wind"),
        (json.dumps(recorded(controller_configs={"type": "BASIC"})), "OSC_POSE, got 'BASIC'"),
        (json.dumps(recorded(controller_configs=None)), "OSC_POSE, got None"),
        (json.dumps(recorded(controller_configs={"type": "OSC_POSE"})), "true or false .* None"),
        (
            json.dumps(recorded(controller_configs=OSC_POSE | {"impedance_mode": "variable"})),
            "impedance_mode 'fixed', got 'variable'",
        ),
    ],
)
def test_recorded_arguments_of_something_else_are_refused(
    text: str, message: str, tmp_path: Path
) -> None:
    path = write_env_args(tmp_path / "other.hdf5", text)
    with pytest.raises(ValueError, match=f"^task.env_args .*{message}") as error:
        LiftTask(LiftConfig(env_args=path))
    assert "\n" not in str(error.value)
    assert path in str(error.value)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.write_text("x"), Path.mkdir])
def test_a_file_that_is_not_hdf5_is_refused(make: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    make(path)
    with pytest.raises(ValueError, match=r"^task.env_args must be .* got .*a.hdf5"):
        make_task("lift", env_args=str(path))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_steps": 0}, "task.max_steps must be at least 1, got 0"),
        ({"success": "end"}, "task.success must be 'once' for lift, got 'end'"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task("lift", **wrong)


def test_making_a_task_imports_no_simulator() -> None:
    source = (
        "import sys; from envs import make_task; make_task('lift'); make_task('kitchen');"
        "print(sorted({'mujoco', 'robosuite', 'gymnasium_robotics', 'av', 'h5py', 'torch'}"
        " & sys.modules.keys()))"
    )
    root = PROJECT
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
