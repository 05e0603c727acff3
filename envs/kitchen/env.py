"""The world of Kitchen: gymnasium-robotics' FrankaKitchen-v1, as policies are reported on it.

It differs in five things: absolute joint targets; noise of the same ratio on robot and objects; an
observation of joint positions and 30 zeros where the goal was; completion seen through the noise; a
task counts once.
"""

from __future__ import annotations

import contextlib
import io
import os
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..motion import EnergyMeter, Motion
from ..task import FloatArray, Task
from .data import N_GOAL, N_JOINTS, N_POSITIONS, N_TASKS, NOISE_AMPLITUDE, VELOCITY_SCALE

if TYPE_CHECKING:
    from .task import KitchenConfig

N_ARM_JOINTS = 7  # the other two are the fingers, which slide
EFFECTOR = "end_effector"
SUBSTEPS_PER_SAMPLE = 4  # of the power: each of them would cost 4 % of the time and change 0.5 %
COMPLETION_DISTANCE = 0.3
FRAME_SIZE = 256


class KitchenEnv(gym.Env[FloatArray, FloatArray]):
    """The adapter around FrankaKitchen-v1.

    The initial state is always the same; the seed drives the observation noise, which also enters
    the motion, because targets are limited relative to the last observed joints.
    """

    def __init__(self, config: KitchenConfig, render: bool = False) -> None:
        franka_kitchen = _load_franka_kitchen(render)
        import mujoco  # reads MUJOCO_GL, which is set by now

        self.mj_step = mujoco.mj_step
        self.config = config
        self.render_mode = "rgb_array" if render else None
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (60,), np.float64)
        bound = np.inf if config.abs_action else 1.0
        self.action_space = gym.spaces.Box(-bound, bound, (N_JOINTS,), np.float64)
        self.goals = {
            task: (franka_kitchen.OBS_ELEMENT_INDICES[task], goal)
            for task, goal in sorted(franka_kitchen.OBS_ELEMENT_GOALS.items())
        }
        self.kitchen = franka_kitchen.KitchenEnv(
            render_mode=self.render_mode, width=FRAME_SIZE, height=FRAME_SIZE
        )
        self.robot = self.kitchen.robot_env
        self.velocity_low, self.velocity_high = self.robot.robot_vel_bound[:N_JOINTS].T
        self.position_low, self.position_high = self.robot.robot_pos_bound[:N_JOINTS].T
        self.initial_positions = self.robot.init_qpos.copy()
        model, data = self.robot.model, self.robot.data
        self.n_samples = self.robot.frame_skip // SUBSTEPS_PER_SAMPLE
        sample_s = SUBSTEPS_PER_SAMPLE * model.opt.timestep
        self.meter = EnergyMeter(model, data, self.n_samples, sample_s)
        self.effector, self.arm = data.site(EFFECTOR).xpos, data.qpos[:N_ARM_JOINTS]  # views
        self.rng = np.random.default_rng()
        self.last_joints = np.zeros(N_JOINTS)
        self.completed: list[str] = []
        self.n_steps = 0
        if render:
            # shadows, antialiasing and reflections are nearly all of a frame's time without a GPU
            model = self.robot.model
            model.vis.quality.shadowsize = 0
            model.vis.quality.offsamples = 0
            model.mat_reflectance[:] = 0.0
            self.render()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.completed = []
        self.n_steps = 0
        self.kitchen.reset()
        self.robot.set_state(self.initial_positions, np.zeros(self.robot.model.nv))
        self.meter.begin()
        return self._observe(), {"completed_tasks": []}

    def step(self, action: FloatArray) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        self.n_steps += 1
        self._simulate(self._target(action))
        obs = self._observe()
        new = [
            task
            for task, (indices, goal) in self.goals.items()
            if task not in self.completed
            and np.linalg.norm(obs[indices] - goal) < COMPLETION_DISTANCE
        ]
        self.completed.extend(new)
        terminated = len(self.completed) == N_TASKS
        truncated = self.n_steps >= self.config.max_steps
        info = {"completed_tasks": list(self.completed)}
        return obs, float(len(new)), terminated, truncated, info

    def motion(self) -> Motion:
        return Motion(self.effector.copy(), self.arm.copy(), self.meter.energy_j())

    def render(self) -> NDArray[np.uint8]:
        frame: NDArray[np.uint8] = self.kitchen.render()
        return frame

    def close(self) -> None:
        self.kitchen.close()

    def _observe(self) -> FloatArray:
        noise = NOISE_AMPLITUDE * self.rng.uniform(-1.0, 1.0, N_POSITIONS)
        positions = self.robot.data.qpos + self.config.robot_noise_ratio * noise
        self.last_joints = positions[:N_JOINTS]
        return np.concatenate([positions, np.zeros(N_GOAL)])

    def _simulate(self, target: FloatArray) -> None:
        """As the robot's `do_simulation`, without contact forces, which nothing here reads.

        The energy is sampled in the middle of every `SUBSTEPS_PER_SAMPLE` substeps, where the last
        of the first three began; the physics is that of all of them in one go, bit for bit.
        """
        model, data, step, meter = self.robot.model, self.robot.data, self.mj_step, self.meter
        data.ctrl[:] = target
        meter.begin()
        after = SUBSTEPS_PER_SAMPLE // 2 - 1
        step(model, data, SUBSTEPS_PER_SAMPLE - after)
        meter.sample()
        for _ in range(self.n_samples - 1):
            step(model, data, SUBSTEPS_PER_SAMPLE)
            meter.sample()
        step(model, data, after)

    def _target(self, action: FloatArray) -> FloatArray:
        if self.config.abs_action:
            velocity = (action - self.last_joints) / self.robot.dt
        else:
            velocity = VELOCITY_SCALE * np.clip(action, -1.0, 1.0)
        velocity = np.clip(velocity, self.velocity_low, self.velocity_high)
        target = self.last_joints + velocity * self.robot.dt
        return np.asarray(np.clip(target, self.position_low, self.position_high))


def _load_franka_kitchen(render: bool) -> Any:
    if render:
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        # it prints news about other environments, in every worker
        with contextlib.redirect_stderr(io.StringIO()):
            from gymnasium_robotics.envs.franka_kitchen import kitchen_env
    except ImportError as error:
        raise ImportError(f"kitchen needs gymnasium-robotics: {Task.install}") from error
    return kitchen_env
