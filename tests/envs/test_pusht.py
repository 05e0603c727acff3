"""PushT is gym-pusht's physics, with the start states and observations of two conventions."""

from __future__ import annotations

import importlib.metadata
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import gym_pusht.envs
import numpy as np
import pytest

from envs import EnvPool, PushTConfig, PushTTask, make_task
from envs.pusht.cover import covered_share
from envs.pusht.data import KEYPOINTS, KINDS, kind_of, start_state
from envs.task import FloatArray
from runners.jobs.dataset import read_content
from skipstep.observations import ObservationSpec
from tests.helpers.places import PROJECT

DEMONSTRATIONS = np.load(PROJECT / "tests/fixtures/pusht/demonstrations.npz")
GOAL = (256.0, 256.0), np.pi / 4


def made(**settings: Any) -> tuple[Any, Any]:
    """The task's environment, and gym-pusht's inside of it."""
    env: Any = make_task("pusht", **settings).make_env()
    return env, env.unwrapped


def put(pusht: Any, position: Any, angle: float, agent: Any = (60.0, 60.0)) -> None:
    """Angle first: it turns the block about its centre of mass, and so moves its position."""
    pusht.agent.position = tuple(map(float, agent))
    pusht.block.angle = float(angle)
    pusht.block.position = tuple(map(float, position))
    pusht.space.step(0.01)


def pushes(seed: int, n: int) -> FloatArray:
    """Targets all over the board."""
    return np.random.default_rng(seed).uniform(0, 512, (n, 2))


@pytest.mark.parametrize("demo", range(5))
def test_a_recorded_episode_comes_out_as_it_was(demo: int) -> None:
    states = DEMONSTRATIONS["state"][demo].astype(np.float64)
    actions = DEMONSTRATIONS["action"][demo].astype(np.float64)
    env, pusht = made(obs="state")
    env.reset(seed=0)
    put(pusht, states[0, 2:4], states[0, 4], states[0, :2])
    seen = np.array([env.step(action)[0] for action in actions[:20]])
    assert np.abs(states[20, 2:4] - states[0, 2:4]).max() > 5  # it is pushed
    np.testing.assert_allclose(seen[:, :4], states[1:21, :4], rtol=0, atol=1e-3)
    np.testing.assert_allclose(seen[:, 4], states[1:21, 4], rtol=0, atol=1e-4)


def test_the_environment_inside_is_gym_pusht_s() -> None:
    for obs in KINDS:
        assert type(made(obs=obs)[1]) is gym_pusht.envs.PushTEnv


def test_steps_are_counted_to_the_last() -> None:
    env, _ = made(max_steps=3)
    for _ in range(2):
        env.reset(seed=1)
        assert [env.step(np.full(2, 256.0))[2:4] for _ in range(3)] == [
            (False, False),
            (False, False),
            (False, True),
        ]


@pytest.mark.parametrize("first", [0, 100000])
def test_a_seed_is_diffusion_policy_s_start_state(first: int) -> None:
    env, pusht = made()
    for seed in range(first, first + 100):
        env.reset(seed=seed)
        draw = np.random.RandomState(seed)
        agent = [draw.randint(50, 450), draw.randint(50, 450)]
        block = np.array([draw.randint(100, 400), draw.randint(100, 400)])
        angle = draw.randn() * 2 * np.pi - np.pi
        assert list(pusht.agent.position) == agent
        assert pusht.block.angle == angle
        # the position was set before the angle, which then turned the block about this point
        centre = pusht.block.local_to_world(pusht.block.center_of_gravity)
        np.testing.assert_allclose(np.subtract(centre, block), [0, 45], rtol=0, atol=1e-9)
        turned = np.array(pusht.block.position) - block
        assert np.hypot(*turned) == pytest.approx(90 * abs(np.sin(angle / 2)), abs=1e-9)


def test_the_other_convention_has_gym_pusht_s_own_start_states() -> None:
    env, pusht = made(convention="lerobot", obs="state")
    original = gym_pusht.envs.PushTEnv(obs_type="state")
    for seed in (0, 7, 100000):
        np.testing.assert_array_equal(env.reset(seed=seed)[0], original.reset(seed=seed)[0])
    np.testing.assert_array_equal(env.reset()[0], original.reset()[0])  # and goes on as it does
    assert abs(pusht.block.angle) <= np.pi


@pytest.mark.parametrize("convention", ["diffusion_policy", "lerobot"])
def test_without_a_seed_episodes_follow_from_the_last_one(convention: str) -> None:
    runs = []
    for _ in range(2):
        env, _ = made(convention=convention, obs="state")
        runs.append([env.reset(seed=3)[0], *(env.reset()[0] for _ in range(3))])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert len({tuple(obs) for obs in runs[0]}) == 4


def test_a_state_may_be_given() -> None:
    env, pusht = made(obs="state")
    state = [100.0, 110.0, 300.0, 310.0, 1.0]
    obs, _ = env.reset(seed=1, options={"reset_to_state": state})
    original = gym_pusht.envs.PushTEnv(obs_type="state")
    np.testing.assert_array_equal(obs, original.reset(options={"reset_to_state": state})[0])
    assert pusht.block.angle == 1.0
    seeded = env.reset(seed=1)[0]
    np.testing.assert_array_equal(env.reset(seed=1, options={"other": 1})[0], seeded)


def test_keypoints_are_those_of_the_demonstrations() -> None:
    env, pusht = made()
    env.reset(seed=0)
    n_compared = 0
    for states, points in zip(DEMONSTRATIONS["state"], DEMONSTRATIONS["keypoint"], strict=True):
        still = (states[1:, 2:] == states[:-1, 2:]).all(axis=1)  # recorded a moment apart
        for state, recorded in zip(states[1:][still], points[1:][still], strict=True):
            put(pusht, state[2:4], state[4], state[:2])
            obs = env.step(state[:2])[0]
            np.testing.assert_allclose(obs[:18].reshape(9, 2), recorded, rtol=0, atol=1e-3)
            np.testing.assert_allclose(obs[18:], state[:2], rtol=0, atol=1e-9)
            n_compared += 1
    assert n_compared > 40
    inside = np.abs(KEYPOINTS[:, 0]) < 63
    assert inside.all()


def test_keypoints_turn_with_the_block() -> None:
    env, pusht = made()
    env.reset(seed=0)
    for angle in (0.0, 0.5, -9.0):
        put(pusht, (250.0, 240.0), angle)
        obs = env.step(np.array(pusht.agent.position))[0]
        expected = [pusht.block.local_to_world(tuple(point)) for point in KEYPOINTS]
        np.testing.assert_allclose(obs[:18].reshape(9, 2), expected, rtol=0, atol=1e-9)


def test_corners_are_those_of_the_t() -> None:
    env, pusht = made(obs="corners")
    env.reset(seed=0)
    put(pusht, (250.0, 240.0), np.pi / 2)  # a quarter turn: (x, y) -> (-y, x)
    obs, *_ = env.step(np.array([60.0, 60.0]))
    corners = obs["environment_state"].reshape(8, 2) - (250.0, 240.0)
    bar = {(0, -60), (0, 60), (-30, 60), (-30, -60)}
    stem = {(-30, -15), (-120, -15), (-120, 15), (-30, 15)}
    assert {tuple(c) for c in corners[:4].round(6).astype(int).tolist()} == bar
    assert {tuple(c) for c in corners[4:].round(6).astype(int).tolist()} == stem
    np.testing.assert_allclose(obs["state"], [60.0, 60.0], atol=1e-9)


@pytest.mark.parametrize("size", [96, 384, 51])
def test_the_picture_is_gym_pusht_s_at_that_size(size: int) -> None:
    env, _ = made(obs="image", image_size=size, camera="top")
    original = gym_pusht.envs.PushTEnv(
        obs_type="pixels", observation_width=size, observation_height=size
    )
    ours, theirs = env.reset(seed=5)[0], original.reset(seed=5)[0]
    for action in pushes(0, 6):
        assert ours["image.top"].shape == (3, size, size)
        np.testing.assert_array_equal(ours["image.top"].transpose(1, 2, 0), theirs)
        ours, theirs = env.step(action)[0], original.step(action)[0]
    agent = ours["state"] * size / 512  # a blue disc, not the red cross of the films
    red, _, blue = ours["image.top"][:, int(agent[1]), int(agent[0])].astype(int)
    assert blue > red + 50


@pytest.mark.parametrize("obs", KINDS)
def test_an_observation_is_what_the_task_says(obs: str) -> None:
    task = make_task("pusht", obs=obs)
    spec, env = task.obs_spec, task.make_env()
    assert (spec.control_hz, task.control_hz) == (10.0, 10.0)
    for seen in (env.reset(seed=0)[0], env.step(np.full(2, 300.0))[0]):
        arrays = {"state": seen} if spec.single else seen
        assert list(arrays) == list(spec)
        for name, array in arrays.items():
            assert array.shape == spec[name].shape
            assert array.dtype == (np.uint8 if name.startswith("image.") else np.float64)
        assert task.obs_dim == arrays["state"].shape[0]
        assert env.observation_space.contains(seen)


def reward(along_bar: float) -> tuple[float, bool, dict[str, Any]]:
    """With the block moved from the goal along its bar, so many pixels.

    The bar is 120 x 30, the stem 30 x 90, and so the T 6300: of 6300 - 120 d stays inside.
    """
    env, pusht = made()
    env.reset(seed=0)
    (x, y), angle = GOAL
    put(pusht, (x + along_bar * np.cos(angle), y + along_bar * np.sin(angle)), angle)
    _, value, terminated, _, info = env.step(np.array([60.0, 60.0]))
    return value, terminated, info


@pytest.mark.parametrize(
    ("moved", "coverage", "done"),
    [
        (0.0, 1.0, True),
        (2.6, 1 - 120 * 2.6 / 6300, True),  # 0.9505
        (2.7, 1 - 120 * 2.7 / 6300, False),  # 0.9486
        (26.25, 0.5, False),
        (-26.25, 0.5, False),
        (200.0, 0.0, False),
    ],
)
def test_a_reward_is_the_covered_share_of_95_percent(
    moved: float, coverage: float, done: bool
) -> None:
    value, terminated, info = reward(moved)
    assert info["coverage"] == pytest.approx(coverage, abs=1e-6)
    assert value == pytest.approx(min(coverage / 0.95, 1.0), abs=1e-6)
    assert (terminated, bool(info["is_success"])) == (done, done)


def test_a_half_turned_block_covers_what_two_ts_share() -> None:
    env, pusht = made()
    env.reset(seed=0)
    (x, y), angle = GOAL
    put(pusht, (x, y), angle + np.pi)  # back to back: they share an edge
    assert env.step(np.array([60.0, 60.0]))[1] == pytest.approx(0.0, abs=1e-6)
    down = np.array([-np.sin(angle), np.cos(angle)])
    put(pusht, np.array([x, y]) + 30 * down, angle + np.pi)  # bar on bar
    assert env.step(np.array([60.0, 60.0]))[1] == pytest.approx(3600 / 6300 / 0.95, abs=1e-6)


def test_coverage_is_gym_pusht_s_to_rounding() -> None:
    _, pusht = made()
    pusht.reset(seed=0)
    rng, n_partly = np.random.default_rng(0), 0
    for turn in range(400):
        aligned = turn % 4 == 0  # edges upon edges
        angle = GOAL[1] + rng.integers(-4, 4) * np.pi / 2 if aligned else rng.uniform(-9, 9)
        position = 256 + (15.0 * rng.integers(-4, 4, 2) if aligned else rng.normal(0, 40, 2))
        put(pusht, position, angle)
        block = [*pusht.block.position, pusht.block.angle]
        share = covered_share(block, pusht.goal_pose.tolist())
        assert share == pytest.approx(pusht._get_coverage(), abs=1e-12)
        n_partly += 0.01 < share < 0.99
    assert n_partly > 200


def test_the_score_is_the_best_reward_and_success_more_than_95_percent() -> None:
    task = make_task("pusht")
    rewards = np.array([0.2, 0.9, 0.5])
    failed = task.score(rewards, {"coverage": 0.475, "is_success": False})
    assert (failed.success, failed.score) == (False, 0.9)
    assert failed.details == {"max_reward": 0.9, "final_coverage": 0.475}
    solved = task.score(np.array([0.2, 1.0]), {"coverage": 0.96, "is_success": np.True_})
    assert (solved.success, solved.score) == (True, 1.0)
    assert task.success_step(np.array([0.2, 1.0])) == 2
    assert task.success_step(rewards) is None
    both = task.metrics([failed.details, solved.details])
    assert both == {"avg_max_reward": pytest.approx(0.95)}
    assert task.metrics([]) == {}


def test_the_state_and_the_motion_are_the_simulator_s() -> None:
    task = make_task("pusht")
    env: Any = task.make_env()
    env.reset(seed=2)
    obs = env.step(np.array([400.0, 300.0]))[0]
    state, motion, pusht = task.state(env), task.motion(env), env.unwrapped
    np.testing.assert_array_equal(state[:2], obs[18:])
    np.testing.assert_array_equal(state[2:4], pusht.block.position)
    assert (state.shape, state[4]) == ((10,), pusht.block.angle)
    assert np.abs(state[5:7]).max() > 1  # the agent is on its way
    np.testing.assert_array_equal(motion.effector_px, state[:2])
    assert motion.effector_m.shape == motion.joint_rad.shape == (0,)
    assert np.isnan(motion.energy_j)
    np.testing.assert_array_equal(task.hold(np.array([5.0, 6.0])), [5.0, 6.0])


@pytest.mark.parametrize(
    ("shapes", "said", "expected"),
    [
        ({"state": 20}, "pusht_lowdim", ("keypoints", "diffusion_policy", None, None)),
        ({"state": 20}, "", ("keypoints", "diffusion_policy", None, None)),
        ({"state": 5}, "", ("state", "lerobot", None, None)),
        ({"environment_state": 16, "state": 2}, "", ("corners", "lerobot", None, None)),
        ({"state": 2, "image.image": (3, 96, 96)}, "", ("image", "lerobot", 96, "image")),
        ({"image.top": (3, 384, 384), "state": 2}, "pusht", ("image", "lerobot", 384, "top")),
        (
            {"image.image": (3, 96, 96), "state": 2},
            "pusht_image",
            ("image", "diffusion_policy", 96, "image"),
        ),
        ({"state": 19}, "", ("keypoints", "diffusion_policy", None, None)),  # refused later
    ],
)
def test_the_convention_is_read_from_what_a_policy_sees(
    shapes: dict[str, Any], said: str, expected: tuple[Any, ...]
) -> None:
    spec = ObservationSpec.of(shapes)
    found = PushTConfig().seeing(spec, said).resolved()
    assert (found.obs, found.convention, found.image_size, found.camera) == expected
    fits = not spec.missing_from(PushTTask(found).obs_spec)
    assert fits == (kind_of(spec) is not None)


def test_what_is_settled_stays() -> None:
    spec = ObservationSpec.of({"state": 2, "image.top": (3, 384, 384)})
    asked = PushTConfig(convention="diffusion_policy", image_size=96, camera="cam")
    found = asked.seeing(spec).resolved()
    assert (found.convention, found.obs, found.image_size, found.camera) == (
        "diffusion_policy",
        "image",
        96,
        "cam",
    )
    assert PushTConfig(obs="state").seeing(spec).obs == "state"
    assert PushTConfig(convention="lerobot").resolved().obs == "corners"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"convention": "robomimic"}, "task.convention must be one of auto, diffusion_policy, ler"),
        ({"obs": "pixels"}, "task.obs must be one of auto, keypoints, state, corners, image, got"),
        ({"max_steps": 0}, "task.max_steps must be at least 1, got 0"),
        ({"obs": "image", "image_size": 7}, "task.image_size must be from 8 to 1024, got 7"),
        ({"image_size": 96}, "task.image_size needs task.obs=image, got 96 with obs=keypoints"),
        ({"obs": "state", "camera": "top"}, "task.camera needs task.obs=image, got 'top' with o"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task("pusht", **wrong)


def test_a_checkpoint_s_name_of_it_says_the_convention() -> None:
    for convention in ("diffusion_policy", "lerobot"):
        for obs, kind in KINDS.items():
            task = PushTTask(PushTConfig(convention=convention, obs=obs))
            found = PushTConfig().seeing(task.obs_spec, task.info()["name"]).resolved()
            if obs == "keypoints":  # which only diffusion_policy has
                assert found.convention == "diffusion_policy"
            else:
                assert found == task.config
            runner = PushTTask.reference_runner(task.info())
            has_one = convention == "diffusion_policy" and not kind.has_image
            assert (runner is not None) == has_one


def test_a_task_travels_and_takes_no_simulator_with_it() -> None:
    task = make_task("pusht", obs="image", image_size=128)
    assert vars(pickle.loads(pickle.dumps(task))) == vars(task)
    words = "import sys; from envs import make_task; make_task('pusht');"
    words += "print(sorted({'gym_pusht', 'pygame', 'pymunk', 'cv2', 'gymnasium'} & {*sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", words], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def inwards(seed: int, n: int) -> FloatArray:
    """Targets about the goal, so that blocks come to lie on it."""
    return np.random.default_rng(seed).normal(256, 90, (n, 2))


def episode(
    pool: EnvPool, slot: int, seed: int, video: Path | None = None
) -> tuple[FloatArray, FloatArray]:
    pool.reset(slot, seed, video)
    (event,) = pool.wait()
    rows, rewards = [event.obs], []
    for actions in inwards(seed, 60).reshape(6, 10, 2):
        pool.step(slot, actions)
        (event,) = pool.wait()
        assert event.error is None
        rows.append(event.obs)
        rewards.append(event.rewards)
    assert event.done
    return np.concatenate(rows), np.concatenate(rewards)


def test_a_seed_is_an_episode_in_any_process_and_filmed_or_not(tmp_path: Path) -> None:
    """To the last bit of the rewards, whose areas gym-pusht has from GEOS not so."""
    task, best = make_task("pusht", max_steps=60), []
    here: Any = task.make_env()
    with EnvPool(task, 2) as pool:
        for seed in range(100000, 100012):
            expected = [here.reset(seed=seed)[0]]
            steps = [here.step(action) for action in inwards(seed, 60)]
            expected += [step[0] for step in steps]
            video = tmp_path / f"{seed}.mp4" if seed % 6 == 0 else None
            obs, rewards = episode(pool, seed % 2, seed, video)
            np.testing.assert_array_equal(obs, expected)
            assert rewards.tolist() == [step[1] for step in steps]
            best.append(rewards.max())
    assert len(list(tmp_path.glob("*.mp4"))) == 2
    assert np.count_nonzero(best) >= 4


def test_a_film_begins_without_the_target_of_the_episode_before() -> None:
    env, _ = made(obs="state")
    env.reset(seed=4)
    first = env.render()
    assert (first.shape, first.dtype) == ((256, 256, 3), np.uint8)
    env.step(np.array([256.0, 256.0]))
    red = (env.render() == (255, 0, 0)).all(axis=-1)
    assert red[128, 128]
    env.reset(seed=4)
    np.testing.assert_array_equal(env.render(), first)


def test_no_display_is_needed_and_nothing_is_said() -> None:
    words = (
        "import os; from envs.worker import Host, ONE_THREAD; os.environ.update(ONE_THREAD);"
        "from envs import make_task; host = Host(0, make_task('pusht', obs='state'));"
        "host.reset(1, None); host.env.render(); import cv2; assert cv2.getNumThreads() == 1"
    )
    bare = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "SDL_VIDEODRIVER")}
    done = subprocess.run(
        [sys.executable, "-c", words], cwd=PROJECT, env=bare, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_another_physics_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "7.1.0")
    with pytest.raises(ImportError, match=r"pusht needs pymunk below 7, got 7.1.0: pip install"):
        made()
    monkeypatch.setitem(sys.modules, "gym_pusht.envs", None)
    with pytest.raises(ImportError, match=r'pusht needs gym-pusht: pip install "skipstep\[sim\]"'):
        made()


def test_start_states_are_drawn_alike_wherever() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    np.testing.assert_array_equal(start_state(5), start_state(5))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]


def test_the_published_data_are_seen_as_the_world_is(tmp_path: Path) -> None:
    states, points = (DEMONSTRATIONS[name][0, :6] for name in ("state", "keypoint"))
    path, task = tmp_path / "pusht.npz", PushTTask()
    np.savez(path, keypoint=points, state=states, action=states[:, :2], episode_ends=[6])
    data, _ = read_content([str(path)], "auto", ("keypoint", "state"), task)
    obs, action = task.convert(data.state, data.action)
    assert (obs.shape, action.shape) == ((6, 20), (6, 2))
    np.testing.assert_allclose(obs[:, :18].reshape(6, 9, 2), points, rtol=1e-6)
    np.testing.assert_allclose(obs[:, 18:], states[:, :2], rtol=1e-6)
    env, pusht = made()
    env.reset(seed=0)
    put(pusht, states[0, 2:4], states[0, 4], states[0, :2])
    np.testing.assert_allclose(env._seen(pusht.get_obs()), obs[0], rtol=0, atol=0.1)
    again, _ = task.convert(obs, action)
    assert again is obs
    five, _ = PushTTask(PushTConfig(obs="state")).convert(states, action)
    assert five is states
