"""The kitchen behaves as the one that diffusion policies are trained and reported on."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from envs import KitchenConfig, make_task
from envs.kitchen.data import NOISE_AMPLITUDE
from envs.kitchen.env import KitchenEnv
from tests.helpers.places import DATA

# observations and rewards of the original KitchenAllV0 for given actions, without noise
ORIGINAL = np.load(DATA / "upstream_kitchen_traj.npz")


@pytest.fixture(scope="module")
def env() -> KitchenEnv:
    return KitchenEnv(KitchenConfig())


@pytest.mark.parametrize(("mode", "abs_action"), [("vel", False), ("abs", True)])
def test_steps_equal_the_original_environment(mode: str, abs_action: bool) -> None:
    env = KitchenEnv(KitchenConfig(abs_action=abs_action, robot_noise_ratio=0.0))
    for _ in range(2):
        obs = [env.reset(seed=1)[0]]
        rewards = []
        for action in ORIGINAL[f"{mode}_A"]:
            seen, reward, terminated, truncated, _ = env.step(action)
            obs.append(seen)
            rewards.append(reward)
            assert not terminated
            assert not truncated
        np.testing.assert_allclose(obs, ORIGINAL[f"{mode}_O"], rtol=0, atol=1e-9)
        np.testing.assert_array_equal(rewards, ORIGINAL[f"{mode}_R"])


def put(env: KitchenEnv, *tasks: str) -> None:
    for task in tasks:
        indices, goal = env.goals[task]
        env.robot.data.qpos[indices] = goal
    env.robot.data.qvel[:] = 0.0


def test_a_task_counts_once_and_the_episode_ends_with_the_seventh(env: KitchenEnv) -> None:
    obs, info = env.reset(seed=0)
    assert info == {"completed_tasks": []}
    stay = obs[:9]
    put(env, "microwave")
    _, reward, terminated, _, first = env.step(stay)
    assert (reward, terminated, first) == (1.0, False, {"completed_tasks": ["microwave"]})
    put(env, "microwave", "slide cabinet", "light switch")
    _, reward, terminated, _, second = env.step(stay)
    assert (reward, terminated) == (2.0, False)
    assert second["completed_tasks"] == ["microwave", "light switch", "slide cabinet"]
    assert first["completed_tasks"] == ["microwave"]
    put(env, *env.goals)
    _, reward, terminated, _, third = env.step(stay)
    assert (reward, terminated, len(third["completed_tasks"])) == (4.0, True, 7)
    env.reset(seed=0)
    assert len(third["completed_tasks"]) == 7
    assert env.step(stay)[1] == 0.0


def test_noise_is_uniform_and_of_the_given_ratio(env: KitchenEnv) -> None:
    env.reset(seed=3)
    noise = np.array([env._observe()[:30] - env.robot.data.qpos for _ in range(2000)])
    bound = 0.1 * NOISE_AMPLITUDE
    assert (np.abs(noise) <= bound + 1e-12).all()
    assert (np.abs(noise).max(axis=0) > 0.99 * bound).all()
    np.testing.assert_allclose(noise.std(axis=0), bound / np.sqrt(3), rtol=0.06)


def test_the_goal_in_the_observation_is_zero(env: KitchenEnv) -> None:
    obs, _ = env.reset(seed=3)
    assert obs.shape == (60,)
    assert obs.dtype == np.float64
    assert (obs[30:] == 0).all()


def test_velocities_are_clipped_and_targets_limited_in_speed() -> None:
    slow = KitchenEnv(KitchenConfig(abs_action=False, robot_noise_ratio=0.0))
    far = KitchenEnv(KitchenConfig(robot_noise_ratio=0.0))
    outcomes = []
    for env, action in ((slow, 1.0), (slow, 5.0), (far, 50.0), (far, 500.0)):
        env.reset(seed=0)
        outcomes.append(env.step(np.full(9, action))[0])
    np.testing.assert_array_equal(outcomes[0], outcomes[1])
    np.testing.assert_array_equal(outcomes[2], outcomes[3])


def test_an_episode_is_truncated() -> None:
    env = KitchenEnv(KitchenConfig(max_steps=2))
    obs, _ = env.reset(seed=0)
    assert [env.step(obs[:9])[3] for _ in range(2)] == [False, True]


def test_score_and_metrics() -> None:
    task = make_task("kitchen", success_tasks=2)
    assert (task.name, task.obs_dim, task.action_dim, task.control_hz) == ("kitchen", 60, 9, 12.5)
    done = [["kettle"], ["kettle", "microwave"], [], ["kettle", "microwave", "light switch"]]
    scores = [task.score(np.zeros(280), {"completed_tasks": names}) for names in done]
    assert [s.success for s in scores] == [False, True, False, True]
    assert scores[1].score == pytest.approx(2 / 7)
    assert scores[1].details == {"n_completed": 2, "completed_tasks": done[1]}
    metrics = task.metrics([s.details for s in scores])
    assert list(metrics) == [f"p_{n}" for n in range(1, 8)]
    assert list(metrics.values()) == [0.75, 0.5, 0.25, 0, 0, 0, 0]
    assert task.metrics([]) == {}
    assert pickle.loads(pickle.dumps(task)).score(np.zeros(1), {"completed_tasks": done[3]}).success


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"success_tasks": 0}, "task.success_tasks must be 1 to 7, got 0"),
        ({"success_tasks": 8}, "task.success_tasks must be 1 to 7, got 8"),
        ({"max_steps": 0}, "task.max_steps must be at least 1, got 0"),
        ({"robot_noise_ratio": -0.1}, "task.robot_noise_ratio must be at least 0, got -0.1"),
        ({"robot_noise_ratio": np.nan}, "task.robot_noise_ratio must be at least 0, got nan"),
        ({"noise": 1}, "task kitchen has name, abs_action, .* got 'noise'"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task("kitchen", **wrong)


def test_an_unknown_task_is_refused() -> None:
    known = "lift, kitchen, pusht, can, square, transport, tool_hang, metaworld, libero"
    with pytest.raises(ValueError, match=f"task must be one of {known}, got 'lfit'"):
        make_task("lfit")
