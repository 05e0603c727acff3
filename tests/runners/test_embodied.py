"""Time, motion and energy of episodes: closed forms, real simulators, and nothing is disturbed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

from envs import (
    Event,
    KitchenConfig,
    LiftConfig,
    LiftTask,
    Motion,
    PushTConfig,
    PushTTask,
    Task,
)
from envs.kitchen import KitchenTask
from envs.kitchen.env import KitchenEnv
from envs.motion import EnergyMeter
from envs.robosuite.world import RobosuiteEnv
from envs.task import Env, FloatArray
from runners.episodes.embodied import Gathered, chunk_jumps, mean_squared_jerk, path_length
from runners.episodes.episode import EpisodeResult
from runners.episodes.loop import evaluate
from runners.episodes.realtime import Delays, Timeline
from tests.runners.test_evaluate import toy, toy_policy

HZ = 10.0
TIME = np.arange(41)[:, None] / HZ


def test_a_straight_line_has_its_length_and_no_jerk() -> None:
    line = np.array([1.0, 2.0, 0.5]) + TIME * np.array([0.3, 0.0, 0.4])
    assert path_length(line) == pytest.approx(4.0 * 0.5)
    assert mean_squared_jerk(line, HZ) == pytest.approx(0.0, abs=1e-15)
    assert mean_squared_jerk(line + TIME**2, HZ) == pytest.approx(0.0, abs=1e-15)


def test_a_cubic_has_its_third_derivative_as_jerk() -> None:
    cubic = TIME**3 * np.array([0.5, -1.0])
    assert mean_squared_jerk(cubic, HZ) == pytest.approx(3.0**2 + 6.0**2)
    fast = (2 * TIME) ** 3 * np.array([0.5, -1.0])
    assert mean_squared_jerk(fast, HZ) == pytest.approx(64 * (3.0**2 + 6.0**2))


def test_a_circle_has_its_length_and_its_jerk() -> None:
    angle = np.linspace(0.0, 2 * np.pi, 2001)
    circle = 0.3 * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    assert path_length(circle) == pytest.approx(2 * np.pi * 0.3, rel=1e-5)
    rate = 1 / (angle[1] - angle[0])  # one radian a second
    assert mean_squared_jerk(circle, rate) == pytest.approx(0.3**2, rel=1e-5)


def test_what_has_no_numbers_or_too_few_has_no_path_and_no_jerk() -> None:
    assert path_length(np.empty((9, 0))) is None
    assert mean_squared_jerk(np.empty((9, 0)), HZ) is None
    assert mean_squared_jerk(np.ones((3, 2)), HZ) is None
    assert mean_squared_jerk(np.ones((4, 2)), HZ) == 0.0
    assert path_length(np.ones((1, 2))) == 0.0


def test_a_jump_is_counted_where_the_query_changes() -> None:
    actions = np.array([[0.0, 0.0], [9.0, 9.0], [12.0, 13.0], [12.0, 13.0], [12.0, 14.0]])
    assert chunk_jumps(actions, np.array([0, 0, 1, 1, 2])).tolist() == [5.0, 1.0]
    assert chunk_jumps(actions, np.array([0, 0, 0, 0, 0])).tolist() == []
    assert chunk_jumps(actions, np.array([0, 1, 1, 1, 3])).tolist() == [np.hypot(9, 9), 1.0]


@pytest.mark.parametrize(
    ("delays", "lead", "sources"),
    [
        ([0], 0, [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2]]),
        ([1], 1, [[0, 0, 0], [0, 1, 1], [1, 2, 2]]),
        ([0, 6, 2], 2, [[0, 0], [0, 0, 0, 0, 0, 0], [1, 1]]),
    ],
)
def test_a_timeline_says_which_query_a_step_came_from(
    delays: list[int], lead: int, sources: list[list[int]]
) -> None:
    timeline = Timeline(lambda query: delays[query % len(delays)], lead, lambda last: last)
    for expected in sources:
        done = timeline.execute(np.zeros((4, 2)))
        assert timeline.sources.tolist() == expected
        assert len(done) == len(expected)


def gathered() -> Gathered:
    """Two chunks of two steps, the second one ended by the first of its steps."""
    episode = Gathered()
    episode.answer(Event(0, "ready", motion=Motion.stack([Motion(energy_j=np.array(0.0))])))
    for query, n_done in enumerate((2, 1)):
        episode.ask(np.full((2, 1), 3.0 * query), np.full(2, query))
        moments = Motion.stack([Motion(energy_j=np.array(2.0))] * n_done)
        episode.answer(Event(0, "chunk", rewards=np.zeros(n_done), motion=moments))
    return episode


def test_an_episode_may_end_inside_a_chunk() -> None:
    measured = gathered().measured(toy(), np.array([0.0, 0.0, 1.0]), {}, success=True)
    assert measured == {
        "time_to_success_s": 0.3,
        "time_to_subtask_s": {},
        "path_length_m": None,
        "joint_path_length_rad": None,
        "mean_squared_jerk_m2_s6": None,
        "mean_squared_joint_jerk_rad2_s6": None,
        "mean_chunk_jump": 3.0,
        "max_chunk_jump": 3.0,
        "energy_j": 6.0,
    }


def test_what_moves_in_pixels_is_not_measured_in_metres() -> None:
    episode = Gathered()
    at = [np.array([10.0, 20.0]), np.array([13.0, 24.0]), np.array([13.0, 24.0])]
    for kind, moments in (("ready", at[:1]), ("chunk", at[1:])):
        motion = Motion.stack([Motion(effector_px=position) for position in moments])
        if kind == "chunk":
            episode.ask(np.zeros((2, 2)), np.zeros(2, np.int64))
        episode.answer(Event(0, kind, rewards=np.zeros(len(moments)), motion=motion))
    measured = episode.measured(toy(), np.zeros(2), {}, success=False)
    assert (measured["path_length_px"], measured["path_length_m"]) == (5.0, None)
    assert measured["mean_squared_jerk_px2_s6"] is None  # three positions have no third difference
    assert measured["energy_j"] is None


def test_episodes_of_pusht_are_measured_in_pixels() -> None:
    task = PushTTask(PushTConfig(max_steps=10))
    for result in played(task, record=True).values():
        trajectory, measured = result.trajectory, result.embodied
        assert trajectory is not None
        assert measured is not None
        agent = trajectory.states[:, :2]
        assert measured["path_length_px"] == pytest.approx(path_length(agent), rel=1e-5)
        jerk = mean_squared_jerk(agent, 10.0)
        assert measured["mean_squared_jerk_px2_s6"] == pytest.approx(jerk, rel=1e-5)
        assert all(measured[name] is None for name in NEEDS_A_BODY)


def test_a_failure_has_no_time_to_success() -> None:
    measured = gathered().measured(toy(), np.array([0.0, 0.0, 0.5]), {}, success=False)
    assert measured["time_to_success_s"] is None


def test_times_of_the_kitchen_are_those_of_its_rewards() -> None:
    task = KitchenTask(KitchenConfig(success_tasks=3))
    rewards = np.array([0.0, 1.0, 0.0, 2.0, 0.0, 1.0])
    names = ["kettle", "light switch", "microwave", "hinge cabinet"]
    assert task.success_step(rewards) == 4
    assert task.success_step(rewards[:3]) is None
    steps = task.subtask_steps(rewards, {"completed_tasks": names})
    assert steps == {"kettle": 2, "light switch": 4, "microwave": 4, "hinge cabinet": 6}
    assert json.loads(json.dumps(steps)) == steps


CART = """<mujoco><option timestep="0.001" gravity="0 0 0"/><worldbody><body>
<joint name="x" type="slide" axis="1 0 0"/><geom size="0.1" mass="2"/></body></worldbody>
<actuator><motor joint="x"/></actuator></mujoco>"""


def test_energy_is_the_work_of_a_force_and_braking_costs_as_much() -> None:
    model = mujoco.MjModel.from_xml_string(CART)
    data = mujoco.MjData(model)
    meter = EnergyMeter(model, data, 1000, model.opt.timestep)
    assert meter.energy_j() == 0.0
    push = 0.5 * 2.0 * (4.0 / 2.0 * 0.5) ** 2  # the kinetic energy
    for n, force in enumerate((4.0, -4.0), 1):
        data.ctrl[0] = force
        for _ in range(500):
            mujoco.mj_step(model, data)
            meter.sample()
        assert meter.energy_j() == pytest.approx(n * push, rel=0.01)
    assert data.qvel[0] == pytest.approx(0.0, abs=1e-9)
    meter.begin()
    assert meter.energy_j() == 0.0


def swing(joints: FloatArray) -> Iterator[FloatArray]:
    for t in range(12):
        yield joints + 0.4 * np.sin(t / 3.0)


def test_the_kitchen_moves_as_in_one_go_and_its_energy_is_that_of_its_joints() -> None:
    measured, plain = KitchenEnv(KitchenConfig()), KitchenEnv(KitchenConfig())
    task = KitchenTask()
    seen, _ = measured.reset(seed=7)
    assert plain.reset(seed=7)[0].tobytes() == seen.tobytes()
    assert task.motion(measured).energy_j == 0.0
    robot = plain.robot
    energies: list[tuple[float, float]] = []
    for action in swing(seen[:9]):
        expected = 0.0
        robot.data.ctrl[:] = plain._target(action)
        before = robot.data.qpos.copy(), robot.data.qvel.copy()
        warm = robot.data.qacc_warmstart.copy(), robot.data.time
        for _ in range(robot.frame_skip):
            velocity = robot.data.qvel.copy()
            mujoco.mj_step(robot.model, robot.data)
            expected += float(np.abs(robot.data.qfrc_actuator * velocity).sum()) * 0.002
        robot.data.qpos[:], robot.data.qvel[:] = before
        robot.data.qacc_warmstart[:], robot.data.time = warm
        robot.do_simulation(plain._target(action), robot.frame_skip)
        assert measured.step(action)[0].tobytes() == plain._observe().tobytes()
        motion = task.motion(measured)
        energies.append((float(motion.energy_j), expected))
        np.testing.assert_array_equal(motion.joint_rad, robot.data.qpos[:7])
        mujoco.mj_kinematics(robot.model, robot.data)
        np.testing.assert_allclose(
            motion.effector_m, robot.data.site("end_effector").xpos, atol=0.01
        )
    sampled, exact = np.sum(energies, axis=0)
    assert exact > 1.0
    assert sampled == pytest.approx(exact, rel=0.01)


def push(t: int) -> FloatArray:
    return np.array([np.sin(t), np.cos(t), -0.5, 0.0, 0.1, 0.0, 1.0 if t % 4 else -1.0])


def test_lift_moves_as_without_a_meter_and_its_energy_is_that_of_its_joints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = LiftTask()
    measured = RobosuiteEnv(task)
    seen, motions = [], []
    for seed in (3, 4):
        seen.append(measured.reset(seed=seed)[0].tobytes())
        motions.append(task.motion(measured))
        for t in range(8):
            seen.append(measured.step(push(t))[0].tobytes())
            motions.append(task.motion(measured))
    measured.close()

    def count(env: RobosuiteEnv) -> None:
        """Only watch the simulator's own step."""
        sim, own = env.sim_env.sim, env.sim_env.sim.step
        env.meter = EnergyMeter(sim.model._model, sim.data._data, 1, 0.0)

        def step(with_udd: bool = True) -> None:
            velocity = sim.data.qvel.copy()
            own(with_udd)
            powers.append(float(np.abs(sim.data.qfrc_actuator * velocity).sum()))

        sim.step = step

    powers: list[float] = []
    monkeypatch.setattr(RobosuiteEnv, "_measure", count)
    plain = RobosuiteEnv(task)
    again, energies, effector = [], [], []
    for seed in (3, 4):
        again.append(plain.reset(seed=seed)[0].tobytes())
        energies.append(0.0)
        effector.append(np.frombuffer(again[-1])[10:13])
        for t in range(8):
            powers.clear()
            again.append(plain.step(push(t))[0].tobytes())
            energies.append(sum(powers) * 0.002)
            effector.append(np.frombuffer(again[-1])[10:13])
    assert again == seen
    assert len(powers) == 25
    assert [float(m.energy_j) for m in motions] == pytest.approx(energies, rel=1e-9)
    assert max(energies) > 0.1
    np.testing.assert_array_equal([m.effector_m for m in motions], effector)
    assert motions[0].joint_rad.shape == (7,)
    assert np.abs(motions[8].joint_rad - motions[0].joint_rad).max() > 0.01


class Wander:
    """A policy that needs no weights: a target, and noise that is the query's own."""

    n_obs_steps, n_action_steps = 2, 4

    def __init__(self, task: Task) -> None:
        self.n_actions, self.kitchen = task.action_dim, task.name == "kitchen"

    def act(self, obs: Tensor, noise: Sequence[torch.Generator]) -> Tensor:
        rows = [torch.randn(4, self.n_actions, generator=g) for g in noise]
        start = obs[:, -1:, :9] if self.kitchen else 0.0
        return start + 0.2 * torch.stack(rows)


class Unmeasured(KitchenTask):
    """The kitchen as it was before it told of its motion."""

    def motion(self, env: Env) -> Motion:
        return Motion()


def played(task: Task, n_envs: int = 1, **more: Any) -> dict[int, EpisodeResult]:
    results = evaluate(Wander(task), task, [5, 6], n_envs, 0, policy_batch=2, **more)
    return {r.seed: r for r in results}


def outcome(results: Mapping[int, EpisodeResult]) -> dict[int, tuple[Any, ...]]:
    return {
        s: (r.status, r.success, r.score, r.n_steps, r.details, r.observations.tobytes())
        for s, r in results.items()
    }


NEEDS_A_BODY = (
    "path_length_m",
    "joint_path_length_rad",
    "mean_squared_jerk_m2_s6",
    "mean_squared_joint_jerk_rad2_s6",
    "energy_j",
)


def test_episodes_of_the_kitchen_are_measured_and_stay_as_they_are() -> None:
    config = KitchenConfig(max_steps=22)
    with_it, without = played(KitchenTask(config)), played(Unmeasured(config))
    assert outcome(with_it) == outcome(without)
    for seed, result in with_it.items():
        measured, blind = result.record()["embodied"], without[seed].record()["embodied"]
        assert measured["time_to_success_s"] is None
        assert 0.5 < measured["joint_path_length_rad"] < 30
        assert 0.1 < measured["path_length_m"] < 10
        assert all(measured[name] > 0 for name in NEEDS_A_BODY)
        assert all(blind[name] is None for name in NEEDS_A_BODY)
        assert 0 < measured["mean_chunk_jump"] <= measured["max_chunk_jump"]
        assert {k: v for k, v in measured.items() if k not in NEEDS_A_BODY} == {
            k: v for k, v in blind.items() if k not in NEEDS_A_BODY
        }
        assert json.loads(json.dumps(measured)) == measured
    again = played(KitchenTask(config), n_envs=2)
    assert {s: r.embodied for s, r in again.items()} == {s: r.embodied for s, r in with_it.items()}


def test_what_is_measured_is_what_the_recorded_states_say() -> None:
    task = KitchenTask(KitchenConfig(max_steps=10))
    for result in played(task, record=True).values():
        trajectory, measured = result.trajectory, result.embodied
        assert trajectory is not None
        assert measured is not None
        joints = trajectory.states[:, :7]
        assert measured["joint_path_length_rad"] == pytest.approx(path_length(joints), rel=1e-5)
        jerk = mean_squared_jerk(joints, 12.5)
        assert measured["mean_squared_joint_jerk_rad2_s6"] == pytest.approx(jerk, rel=1e-5)
        jumps = np.linalg.norm(np.diff(trajectory.executed, axis=0)[[3, 7]], axis=-1)
        assert measured["mean_chunk_jump"] == pytest.approx(jumps.mean(), rel=1e-5)
        assert measured["max_chunk_jump"] == pytest.approx(jumps.max(), rel=1e-5)


def test_episodes_of_lift_are_measured() -> None:
    for result in played(LiftTask(LiftConfig(max_steps=10))).values():
        measured = result.embodied
        assert measured is not None
        assert measured["time_to_success_s"] is None
        assert measured["time_to_subtask_s"] == {}
        assert all(measured[name] > 0 for name in NEEDS_A_BODY)
        assert 0.001 < measured["path_length_m"] < 1.0


def test_a_task_that_tells_of_no_motion_has_the_rest() -> None:
    results = {r.seed: r for r in evaluate(toy_policy(), toy(), range(100, 106), 3, 0)}
    assert {r.success for r in results.values()} == {True, False}
    for result in results.values():
        measured = result.embodied
        assert measured is not None
        assert all(measured[name] is None for name in NEEDS_A_BODY)
        time = measured["time_to_success_s"]
        assert time == (pytest.approx(result.n_steps / 10.0) if result.success else None)
        assert (measured["mean_chunk_jump"] is None) == (result.n_queries < 2)


def test_jumps_under_delays_are_where_the_new_chunk_begins() -> None:
    task = KitchenTask(KitchenConfig(max_steps=12))
    delays = Delays((1,), "")
    for result in played(task, record=True, delays=delays).values():
        assert result.trajectory is not None
        assert result.embodied is not None
        steps = np.linalg.norm(np.diff(result.trajectory.executed, axis=0), axis=-1)
        jumps = steps[[3, 6, 9]]  # chunks of 3; the first action of a new one comes a step late
        assert result.embodied["mean_chunk_jump"] == pytest.approx(jumps.mean(), rel=1e-5)
        assert result.embodied["max_chunk_jump"] == pytest.approx(jumps.max(), rel=1e-5)


def test_an_error_has_no_measures() -> None:
    task = toy(fault="raise")
    (result,) = evaluate(toy_policy(), task, [100], 1, 0)
    assert result.status == "error"
    assert result.record()["embodied"] is None
