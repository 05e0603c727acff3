"""Tasks of robosuite: what each shows and takes, Lift as it always was, and pictures."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs import TASKS, make_task
from envs.robosuite.actions import N_POSE, OSC_POSE, absolute_rows, pose_command
from envs.robosuite.observations import View, slices
from envs.robosuite.task import RobosuiteTask
from envs.robosuite.world import RobosuiteEnv
from skipstep.observations import ObservationSpec
from tests.envs.test_lift import write_env_args
from tests.helpers.places import FIXTURES, PROJECT

POSES = {"pos": 3, "quat": 4, "to_robot0_eef_pos": 3, "to_robot0_eef_quat": 4}
OBJECTS: dict[str, dict[str, int]] = {  # the objects' numbers in robomimic's data, in order
    "can": {f"Can_{name}": size for name, size in POSES.items()},
    "square": {f"SquareNut_{name}": size for name, size in POSES.items()},
    "transport": {
        **{"payload_pos": 3, "payload_quat": 4, "trash_pos": 3, "trash_quat": 4},
        **{"lid_handle_pos": 3, "lid_handle_quat": 4, "target_bin_pos": 3, "trash_bin_pos": 3},
        **{"gripper0_to_payload": 3, "gripper0_to_lid_handle": 3, "gripper1_to_payload": 3},
        **{"gripper1_to_trash": 3, "payload_in_target_bin": 1, "trash_in_trash_bin": 1},
    },
    "tool_hang": {
        f"{thing}_{name}": size
        for thing in ("base", "frame", "tool")
        for name, size in POSES.items()
    }
    | {"frame_is_assembled": 1, "tool_on_frame": 1},
}
SIZES = {  # numbers seen, numbers of a change of pose, of a pose, steps
    "lift": (19, 7, 10, 400),
    "can": (23, 7, 10, 400),
    "square": (23, 7, 10, 400),
    "transport": (59, 14, 20, 700),
    "tool_hang": (53, 7, 10, 700),
}


def task_of(name: str, **settings: Any) -> RobosuiteTask:
    task = make_task(name, **settings)
    assert isinstance(task, RobosuiteTask)
    return task


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_the_papers(name: str) -> None:
    task, absolute = task_of(name), task_of(name, abs_action=True)
    assert (task.obs_dim, task.action_dim, absolute.action_dim, task.max_steps) == SIZES[name]
    assert task.obs_spec == ObservationSpec.of({"state": SIZES[name][0]}, 20.0)
    assert next(iter(task.obs_parts)) == "object"
    assert task.info() == {"name": f"{name}_lowdim", "abs_action": False}


@pytest.mark.parametrize("name", OBJECTS)
def test_an_observation_has_robomimics_order(name: str) -> None:
    task = task_of(name, max_steps=2)
    env = RobosuiteEnv(task)
    obs, _ = env.reset(seed=3)
    seen = env.sim_env._get_observations()
    parts = {**OBJECTS[name], **{k: v for k, v in task.obs_parts.items() if k != "object"}}
    assert sum(parts.values()) == task.obs_dim == len(obs)
    for part, place in slices(parts).items():
        np.testing.assert_array_equal(obs[place], np.atleast_1d(seen[part]), err_msg=part)
    again, _ = env.reset(seed=3)
    np.testing.assert_array_equal(obs, again)
    other, _ = env.reset(seed=4)
    assert np.abs(obs - other).max() > 1e-3
    n_arms = task.made.n_arms
    assert task.motion(env).effector_m.shape == (3 * n_arms,)
    assert task.motion(env).joint_rad.shape == (7 * n_arms,)
    env.step(np.zeros(task.action_dim))
    assert float(task.motion(env).energy_j) > 0
    assert not env.step(np.zeros(task.action_dim))[2]
    env.close()


def test_lift_is_what_it_was() -> None:
    """Recorded before its world was shared; the bits are those of one kind of processor."""
    with np.load(FIXTURES.parent / "robosuite/lift_trajectories.npz") as file:
        held = dict(file)
    for absolute in (False, True):
        task = task_of("lift", abs_action=absolute)
        env = RobosuiteEnv(task)
        for seed in (0, 7):
            key = f"{'abs' if absolute else 'delta'}_{seed}_"
            obs, _ = env.reset(seed=seed)
            rows, rewards, energy_j = [obs], [], []
            for action in held[key + "actions"]:
                obs, reward, *_ = env.step(action)
                rows.append(obs)
                rewards.append(reward)
                energy_j.append(float(task.motion(env).energy_j))
            np.testing.assert_allclose(rows, held[key + "obs"], atol=1e-9, rtol=0)
            np.testing.assert_array_equal(rewards, held[key + "rewards"])
            np.testing.assert_allclose(energy_j, held[key + "energy_j"], rtol=1e-6)
            np.testing.assert_allclose(task.state(env), held[key + "state"], atol=1e-8, rtol=0)
            xml = hashlib.sha256(task.model(env).encode()).hexdigest()
            assert xml == str(held[key + "model"])
    recorded = {"max_steps", "abs_action", "arguments", "control_hz", "action_dim"}
    assert vars(task).keys() == recorded  # fingerprints of published runs are made of these


def test_two_arms_have_two_commands() -> None:
    arm = np.array([0.1, 0.2, 0.3, 1.0, 0, 0, 0, -1.0, 0, 1.0])
    both = np.concatenate([arm, arm + np.r_[1.0, np.zeros(9)]])
    commands = pose_command(both).reshape(2, 7)
    np.testing.assert_array_equal(commands[1] - commands[0], [1, 0, 0, 0, 0, 0, 0])
    task = task_of("transport")
    held = task.hold(np.arange(14.0))
    np.testing.assert_array_equal(held, [0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 13])
    np.testing.assert_array_equal(task_of("transport", abs_action=True).hold(both), both)
    places = slices(task.obs_parts)
    obs = np.zeros((30, 59), np.float32)
    obs[:, places["robot1_eef_pos"]] = [1.0, 2.0, 3.0]
    poses = np.zeros((30, 14), np.float32)
    poses[:, 7:10] = [1.05, 2.0, 3.0]
    _, rows = task_of("transport", abs_action=True).convert(obs, poses)
    assert rows.shape == (30, 2 * N_POSE)
    np.testing.assert_array_equal(rows[0, 10:13], poses[0, 7:10])
    with pytest.raises(ValueError, match=r"actions look like poses, task\.abs_action=false"):
        task.convert(obs, poses)
    assert absolute_rows(obs, rows, (), abs_action=True)[1] is rows  # they have six already


def recorded(name: str, **changes: Any) -> dict[str, Any]:
    args = task_of(name).env_args()
    return {**args, "env_kwargs": {**args["env_kwargs"], **changes}}


@pytest.mark.parametrize("name", SIZES)
def test_recorded_arguments_are_of_their_own_world(name: str, tmp_path: Path) -> None:
    own = recorded(name, control_freq=10)
    path = write_env_args(tmp_path / "own.hdf5", json.dumps(own))
    assert task_of(name, env_args=path).control_hz == 10.0
    assert task_of(name).check_recorded(recorded(name), "a.hdf5") == []
    (doubt,) = task_of(name).check_recorded(own, "a.hdf5")
    assert "control_freq 10 (task: 20)" in doubt
    for other in SIZES:
        if other != name:
            with pytest.raises(ValueError, match=r"env_args must name env_name .* in a\.hdf5"):
                task_of(name).check_recorded(recorded(other), "a.hdf5")
    newer = {**own, "env_version": "1.5.1"}
    with pytest.raises(ValueError, match=r"robosuite up to 1\.4"):
        task_of(name).check_recorded(newer, "a.hdf5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"robots": ["Panda"]}, r"2 robots, all Panda, got \['Panda'\]"),
        ({"robots": ["Panda", "Sawyer"]}, "2 robots, all Panda"),
        ({"env_configuration": "single-arm-parallel"}, "'single-arm-opposed', got 'single-arm-par"),
        ({"table_full_size": [1, 1, 1]}, "only arguments known here, got table_full_size"),
    ],
)
def test_transport_of_other_arms_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task_of("transport").check_recorded(recorded("transport", **changes), "a.hdf5")


def test_a_policy_says_which_pictures_it_sees() -> None:
    numbers = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}
    shape = (3, 84, 84)
    theirs = {"image.agentview_image": shape, "image.robot0_eye_in_hand_image": shape}
    for arrays, parts in (({**numbers, **theirs}, True), ({"state": 9, **theirs}, False)):
        seen = ObservationSpec.of(arrays)
        config, build = TASKS["square"]
        task = build(build.fitted(config(), seen, "square_image"))
        assert seen.missing_from(task.obs_spec) == []
        assert task.view == View(("agentview_image", "robot0_eye_in_hand_image"), 84, parts)
        assert task.info()["name"] == "square_image"
        assert "object" not in task.obs_parts
    plain = build.fitted(config(), ObservationSpec.of({"state": 23}), "square_lowdim")
    assert build(plain).view is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"obs": "pictures"}, r"task\.obs must be one of auto, low_dim, image, got 'pictures'"),
        ({"cameras": ["agentview"]}, r"task\.cameras needs task\.obs=image, got \['agentview'\]"),
        ({"image_size": 84, "obs": "low_dim"}, r"task\.image_size needs task\.obs=image"),
        ({"obs": "image", "image_size": 4}, r"task\.image_size must be from 8 to 1024, got 4"),
        (
            {"obs": "image", "cameras": ["robot1_eye_in_hand"]},
            r"task\.cameras must be some of agentview, .* for task=can, got 'robot1_eye_in_hand'",
        ),
        ({"max_steps": 0}, r"task\.max_steps must be at least 1, got 0"),
        ({"success": "end"}, r"task\.success must be 'once' for can, got 'end'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task("can", **settings)


def test_pictures_are_upright_and_change_nothing() -> None:
    task = task_of("can", obs="image", image_size=48, cameras=["agentview", "robot0_eye_in_hand"])
    env, blind = RobosuiteEnv(task.for_expert()), RobosuiteEnv(task_of("can"))  # type: ignore[arg-type]
    obs, _ = env.reset(seed=1)
    low, _ = blind.reset(seed=1)
    assert list(obs) == ["state", "object", "image.agentview", "image.robot0_eye_in_hand"]
    assert [name for name in obs if name not in task.obs_spec] == ["object"]  # the expert's
    action = np.r_[0.3, -0.2, -0.5, 0.0, 0.0, 0.0, -1.0]
    for _ in range(3):
        obs, low = env.step(action)[0], blind.step(action)[0]
        np.testing.assert_array_equal(obs["state"], low[14:])  # rendering moves nothing
        np.testing.assert_array_equal(obs["object"], low[:14])
    picture = obs["image.agentview"]
    assert (picture.dtype, picture.shape) == (np.dtype(np.uint8), (3, 48, 48))
    film = env.sim_env.sim.render(height=48, width=48, camera_name="agentview")[::-1]
    np.testing.assert_array_equal(picture, film.transpose(2, 0, 1))
    red = (picture[0].astype(int) - picture[1]) > 60  # the can stands in the lower half
    assert red[24:].sum() > 0
    assert red[:24].sum() == 0
    env.close()
    blind.close()


@pytest.mark.parametrize("name", SIZES)
def test_every_task_has_its_settings(name: str) -> None:
    assert (PROJECT / f"conf/task/{name}.yaml").read_text().startswith(f"name: {name}  # ")
    assert OSC_POSE["control_delta"] is True
