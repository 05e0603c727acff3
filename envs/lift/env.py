"""The world of Lift: robosuite 1.4 on MuJoCo.

robosuite 1.5 turns the sign of three numbers of the observation and is refused: policies trained on
earlier data would see wrong inputs without a word.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..motion import EnergyMeter, Motion
from ..task import FloatArray
from .data import pose_command

if TYPE_CHECKING:
    from .task import LiftTask

OBS_KEYS = ("object-state", "robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
FRAME_SIZE = 256


class LiftEnv(gym.Env[FloatArray, FloatArray]):
    """robosuite's Lift with a sparse reward; ends at the first success.

    A reset with a seed seeds numpy's global generator, the only one robosuite 1.4 has: two
    environments in one process would disturb each other.
    """

    def __init__(self, task: LiftTask, render: bool = False) -> None:
        robosuite = _load_robosuite()
        self.task = task
        self.render_mode = "rgb_array" if render else None
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (task.obs_dim,), np.float64)
        bound = np.inf if task.abs_action else 1.0
        self.action_space = gym.spaces.Box(-bound, bound, (task.action_dim,), np.float64)
        self.n_steps = 0
        # a hard reset draws the cube's size anew, so a seed fixes the whole episode
        self.sim_env = robosuite.make(
            "Lift",
            robots="Panda",
            has_renderer=False,
            has_offscreen_renderer=render,
            use_camera_obs=False,
            use_object_obs=True,
            reward_shaping=False,
            ignore_done=True,
            hard_reset=True,
            **task.arguments,
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        self.n_steps = 0
        if seed is not None:
            np.random.seed(seed)
        obs = self.sim_env.reset()
        if self.render_mode is not None:
            # reflections double the time of a frame without a GPU; a hard reset brings them back
            self.reflectance = self.sim_env.sim.model.mat_reflectance.copy()
            self.sim_env.sim.model.mat_reflectance[:] = 0.0
        self._measure()
        return _observation(obs), {}

    def _measure(self) -> None:
        """A hard reset makes a new simulation; each of its substeps is sampled from now on."""
        import mujoco

        sim, robot, mj_step = self.sim_env.sim, self.sim_env.robots[0], mujoco.mj_step
        model, data = sim.model._model, sim.data._data
        n_substeps = int(self.sim_env.control_timestep / self.sim_env.model_timestep)
        meter = EnergyMeter(model, data, n_substeps, model.opt.timestep)

        def step(with_udd: bool = True) -> None:
            mj_step(model, data)
            meter.sample()

        sim.step, self.meter = step, meter
        self.effector, self.positions = data.site_xpos[robot.eef_site_id], data.qpos  # views
        self.arm = np.array(robot._ref_joint_pos_indexes)

    def motion(self) -> Motion:
        return Motion(self.effector.copy(), self.positions[self.arm], self.meter.energy_j())

    def model_xml(self) -> str:
        """The same whether the episode is filmed or not."""
        model = self.sim_env.sim.model
        if self.render_mode is None:
            return str(model.get_xml())
        model.mat_reflectance[:] = self.reflectance
        xml = str(model.get_xml())
        model.mat_reflectance[:] = 0.0
        return xml

    def step(self, action: FloatArray) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        self.n_steps += 1
        command = pose_command(action) if self.task.abs_action else action
        self.meter.begin()
        obs, reward, _, _ = self.sim_env.step(command)
        lifted = bool(reward >= 1.0)
        return _observation(obs), float(lifted), lifted, self.n_steps >= self.task.max_steps, {}

    def render(self) -> NDArray[np.uint8]:
        frame: NDArray[np.uint8] = self.sim_env.sim.render(
            height=FRAME_SIZE, width=FRAME_SIZE, camera_name="agentview"
        )
        return frame[::-1]

    def close(self) -> None:
        if self.render_mode is not None:
            # left to the garbage collector, it fails noisily when the interpreter exits
            context = self.sim_env.sim._render_context_offscreen
            context.gl_ctx.make_current()
            context.con.free()
            context.gl_ctx.free()
        self.sim_env.close()


def _observation(obs: Mapping[str, FloatArray]) -> FloatArray:
    return np.concatenate([obs[key] for key in OBS_KEYS], dtype=np.float64)


def _load_robosuite() -> Any:
    # its handler prints hints about a settings file nobody needs, in every worker
    logging.getLogger("robosuite_logs").addFilter(lambda r: r.levelno >= logging.ERROR)
    try:
        robosuite = importlib.import_module("robosuite")
    except ImportError as error:
        raise ImportError('lift needs robosuite 1.4: pip install "skipstep[sim]"') from error
    if not robosuite.__version__.startswith("1.4."):
        raise ImportError(
            f'lift needs robosuite 1.4, got {robosuite.__version__}: pip install "skipstep[sim]"'
        )
    return robosuite
