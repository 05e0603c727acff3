"""Meta-World's 50 worlds: start states of a seed alone, and scripts that solve them."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP
from metaworld.types import Task as Start

from envs import EnvPool, MetaworldTask, make_task
from envs.metaworld.env import MetaworldEnv
from envs.metaworld.names import INSTRUCTIONS, env_in
from envs.metaworld.package import load_metaworld
from envs.task import FloatArray
from tests.helpers.places import PROJECT

MADE: dict[str, MetaworldEnv] = {}
ALL = ", ".join(INSTRUCTIONS)


def task_of(env: str, **settings: Any) -> MetaworldTask:
    task = make_task("metaworld", env=env, **settings)
    assert isinstance(task, MetaworldTask)
    return task


def world(name: str) -> MetaworldEnv:
    """Made once for all tests."""
    if name not in MADE:
        MADE[name] = MetaworldEnv(task_of(name).config)
    return MADE[name]


def solved(name: str, seed: int, env: MetaworldEnv, most: int = 500) -> tuple[FloatArray, Any]:
    """All observations of the script's episode, and the info of its last step."""
    expert = task_of(name).expert
    obs, info = env.reset(seed=seed)
    rows, done = [obs], False
    while not done and len(rows) <= most:
        obs, reward, terminated, truncated, info = env.step(expert.act(rows[-1][None]))
        assert (reward, terminated) == (float(info["success"]), info["success"])
        rows.append(obs)
        done = terminated or truncated
    return np.array(rows), info


def test_the_names_are_meta_world_s() -> None:
    assert list(INSTRUCTIONS) == sorted(ALL_V3_ENVIRONMENTS)
    assert set(INSTRUCTIONS) == set(ENV_POLICY_MAP)
    assert all(words[0].isupper() and words[-1] == "." for words in INSTRUCTIONS.values())


def test_the_sizes_are_the_environment_s() -> None:
    task, env = task_of("push-v3"), world("push-v3")
    assert (task.obs_dim, task.action_dim, task.max_steps) == (39, 4, 500)
    simulation = env.world.model.opt.timestep * env.world.frame_skip
    assert task.control_hz == pytest.approx(1 / simulation) == 80
    for seen in (env.reset(seed=0)[0], env.step(np.zeros(4))[0]):
        assert (seen.shape, seen.dtype) == ((39,), np.float64)
    assert task.instruction == "Push the puck to the goal."


def of_a_new_process(name: str, seed: int) -> tuple[FloatArray, FloatArray]:
    """First observations of Meta-World's own environment, given what the seed has drawn."""
    env = world(name)
    env.reset(seed=seed)
    made = ALL_V3_ENVIRONMENTS[name]
    own = made()
    drawn = {"env_cls": made, "rand_vec": env.world._last_rand_vec, "partially_observable": False}
    own.set_task(Start(name, pickle.dumps(drawn)))
    return own.reset()[0], own.step(np.ones(4))[0]


def check_seeds(name: str) -> None:
    """A seed is the same episode after any other, and is Meta-World's own."""
    env = world(name)
    first, _ = solved(name, 3, env, 30)
    other, _ = solved(name, 4, env, 60)
    again, _ = solved(name, 3, env, 30)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first[0] - other[0]).max() > 1e-3
    start, step = of_a_new_process(name, 3)
    np.testing.assert_array_equal(start, first[0])
    env.reset(seed=3)
    np.testing.assert_array_equal(step, env.step(np.ones(4))[0])


@pytest.mark.parametrize("name", ["push-v3", "door-open-v3"])
def test_a_seed_is_meta_world_s_own_start_of_what_it_draws(name: str) -> None:
    check_seeds(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(INSTRUCTIONS) - {"push-v3", "door-open-v3"}))
def test_so_it_is_in_every_other_world(name: str) -> None:
    check_seeds(name)
    MADE.pop(name).close()


def test_seeds_draw_from_the_whole_range_and_the_goal_is_seen() -> None:
    env = world("push-v3")
    goals = np.array([env.reset(seed=seed)[0][-3:] for seed in range(20)])
    assert len(np.unique(goals, axis=0)) == 20
    low, high = env.world._random_reset_space.low[3:5], env.world._random_reset_space.high[3:5]
    assert ((low <= goals[:, :2]) & (goals[:, :2] <= high)).all()
    assert (np.ptp(goals[:, :2], axis=0) > 0.5 * (high - low)).all()
    np.testing.assert_array_equal(env.step(np.zeros(4))[0][-3:], goals[-1])


def test_without_a_seed_episodes_follow_from_the_last_one() -> None:
    env = world("push-v3")
    runs = [[env.reset(seed=8)[0], env.reset()[0], env.reset()[0]] for _ in range(2)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert len({tuple(obs) for obs in runs[0]}) == 3


def test_numpy_s_global_generator_plays_no_part() -> None:
    env, before = world("push-v3"), np.random.get_state()[1].copy()
    env.reset(seed=1)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("name", ["reach-v3", "push-v3"])
def test_the_script_solves_it_and_the_episode_ends_there(name: str) -> None:
    for seed in range(3):
        rows, info = solved(name, seed, world(name))
        assert info["success"]
        assert 20 < len(rows) < 150
        rewards = np.array([0.0] * (len(rows) - 2) + [1.0])
        score = task_of(name).score(rewards, info)
        assert (score.success, score.score) == (True, 1.0)
        assert score.details == {"final_shaped_reward": info["shaped_reward"]}
        assert 5 < info["shaped_reward"] <= 10
        assert task_of(name).success_step(rewards) == len(rows) - 1


def test_a_script_acts_in_bounds_and_leaves_what_it_sees_alone() -> None:
    obs = world("door-open-v3").reset(seed=0)[0]
    before, own = obs.copy(), obs.copy()
    action = task_of("door-open-v3").expert.act(obs[None])
    np.testing.assert_array_equal(obs, before)
    with pytest.warns(UserWarning, match="may be too high"):
        original = ENV_POLICY_MAP["door-open-v3"]().get_action(own)
    assert np.abs(original).max() > 1
    np.testing.assert_array_equal(action, np.clip(original, -1, 1))
    assert not np.array_equal(own, before)  # Meta-World's script moves the door that it is shown


def test_an_episode_without_a_success_ends_at_max_steps() -> None:
    task = task_of("push-v3", max_steps=3)
    env: Any = task.make_env()
    for _ in range(2):
        env.reset(seed=0)
        steps = [env.step(np.zeros(4)) for _ in range(3)]
        assert [step[1:4] for step in steps] == [(0.0, False, False)] * 2 + [(0.0, False, True)]
    score = task.score(np.zeros(3), steps[-1][4])
    assert (score.success, score.score, task.success_step(np.zeros(3))) == (False, 0.0, None)


def test_more_steps_than_meta_world_s_can_be_asked_for() -> None:
    env: Any = task_of("push-v3", max_steps=501).make_env()
    env.reset(seed=0)
    assert not any(env.step(np.zeros(4))[3] for _ in range(500))
    assert env.step(np.zeros(4))[3]


def test_motion_and_state_are_the_simulator_s() -> None:
    task, env = task_of("door-open-v3"), world("door-open-v3")
    env.reset(seed=2)
    obs = env.step(np.array([1.0, 0.0, 0.0, 0.0]))[0]
    motion, data = task.motion(env), env.world.data
    np.testing.assert_array_equal(motion.effector_m, obs[:3])
    np.testing.assert_array_equal(motion.joint_rad, data.qpos[:7])
    assert np.isnan(motion.energy_j)
    before = motion.effector_m.copy()
    env.step(np.array([1.0, 0.0, 0.0, 0.0]))
    np.testing.assert_array_equal(motion.effector_m, before)  # a copy
    state = task.state(env)
    n = len(data.qpos) + len(data.qvel)
    np.testing.assert_array_equal(state[:n], [*data.qpos, *data.qvel])
    np.testing.assert_array_equal(state[n : n + 3], data.mocap_pos[0])
    np.testing.assert_array_equal(state[n + 7 : n + 10], obs[-3:])
    np.testing.assert_array_equal(state[n + 10 :], data.body("door").xpos)  # what was drawn


def test_holding_keeps_the_gripper() -> None:
    action = np.array([0.1, 0.2, 0.3, 0.6])
    np.testing.assert_array_equal(task_of("push-v3").hold(action), [0, 0, 0, 0.6])
    assert action[0] == 0.1


def test_a_seed_is_an_episode_in_any_process_and_filmed_or_not(tmp_path: Path) -> None:
    task = task_of("push-v3", max_steps=10)
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 4))
    env = world("push-v3")
    expected = [env.reset(seed=5)[0], *(env.step(action)[0] for action in actions)]
    with EnvPool(task, 2) as pool:
        for slot, seed, film in ((0, 6, None), (0, 5, None), (1, 5, tmp_path / "5.mp4")):
            pool.reset(slot, seed, film)
            (ready,) = pool.wait()
            pool.step(slot, actions)
            (event,) = pool.wait()
            assert (event.error, event.done) == (None, True)
            if seed == 5:
                np.testing.assert_array_equal(np.concatenate([ready.obs, event.obs]), expected)
    assert (tmp_path / "5.mp4").stat().st_size > 1000


def test_a_frame_is_upright() -> None:
    """The table, of brown wood, is below the middle; above it are the floor and the wall."""
    env: Any = task_of("reach-v3").make_env(render=True)
    env.reset(seed=0)
    frame = env.render().astype(int)
    assert frame.shape == (256, 256, 3)
    red, _, blue = frame.transpose(2, 0, 1)
    rows, _ = np.nonzero((red - blue > 30) & (red < 200) & (blue > 40))
    assert len(rows) > 1000
    assert rows.mean() > 128
    env.close()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {},
            "task.env must name one of Meta-World's 50 worlds, got null (a checkpoint that was "
            f"trained here says which): {ALL}",
        ),
        (
            {"env": "reach"},
            "task.env must be one of Meta-World's 50 worlds, got 'reach': reach-v3?",
        ),
        (
            {"env": "pick-plce-v3"},
            "task.env must be one of Meta-World's 50 worlds, got 'pick-plce-v3': "
            "pick-place-v3, pick-place-wall-v3 or stick-pull-v3?",
        ),
        (
            {"env": "xyz"},
            f"task.env must be one of Meta-World's 50 worlds, got 'xyz': {ALL}",
        ),
        (
            {"env": "reach-v3", "max_steps": 0},
            "task.max_steps must be at least 1, got 0",
        ),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message) + "$"):
        make_task("metaworld", **wrong)


def test_a_checkpoint_s_name_of_it_says_the_world() -> None:
    task = task_of("stick-push-v3")
    assert task.info() == {"name": "metaworld/stick-push-v3"}
    assert env_in("metaworld/stick-push-v3") == "stick-push-v3"
    assert [env_in(said) for said in ("", "stick-push-v3", "metaworld/x-v3")] == [None] * 3
    same = [task.other_world(said) for said in ("", "lift", "metaworld/stick-push-v3")]
    assert same == [None] * 3
    assert task.other_world("metaworld/push-v3") == "metaworld/push-v3"


def test_a_dataset_of_another_world_is_refused() -> None:
    task, other = task_of("push-v3"), task_of("reach-v3")
    own = task.env_args()
    assert own["env_version"] == "3.0.0"
    assert own["env_kwargs"] == {"name": "metaworld", "env": "push-v3", "max_steps": 500}
    assert task.check_recorded(own, "a.hdf5") == []
    assert task.check_recorded(None, "a.hdf5") == [
        "a.hdf5 has no env_args: in which world it was recorded is not known"
    ]
    said = "task.env=push-v3 contradicts a.hdf5, recorded in 'metaworld/reach-v3'"
    with pytest.raises(ValueError, match=said):
        task.check_recorded(other.env_args(), "a.hdf5")
    with pytest.raises(ValueError, match=r"a\.hdf5, recorded in 'Lift'$"):
        task.check_recorded('{"env_name": "Lift"}', "a.hdf5")


def test_a_package_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "metaworld"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "metaworld", None)
    said = r'^task=metaworld needs metaworld 3.0.0 \(.*\): pip install "skipstep\[sim\]"$'
    with pytest.raises(ImportError, match=said):
        load_metaworld("env_dict")


def test_a_task_travels_and_takes_no_simulator_with_it() -> None:
    task = task_of("push-v3")
    assert vars(pickle.loads(pickle.dumps(task))) == vars(task)
    words = "import sys; from envs import make_task; make_task('metaworld', env='push-v3').expert;"
    words += "print(sorted({'metaworld', 'mujoco', 'gymnasium'} & {*sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", words], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
