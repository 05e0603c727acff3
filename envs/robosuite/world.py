"""A world of robosuite 1.4 on MuJoCo, with a sparse reward.

robosuite 1.5 turns the sign of three numbers of Lift's observation and is refused: policies trained
on earlier data would see wrong inputs without a word.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from skipstep.observations import STATE

from ..motion import EnergyMeter, Motion
from ..pictures import observation_space
from ..task import FloatArray, Task
from .actions import pose_command
from .compiling import compile_once
from .observations import OBJECT

if TYPE_CHECKING:
    from .task import RobosuiteTask

FRAME_SIZE = 256


class RobosuiteEnv(gym.Env[Any, FloatArray]):
    """One of robosuite's worlds; an episode ends at the first success.

    A reset with a seed seeds numpy's global generator, the only one robosuite 1.4 has: two
    environments in one process would disturb each other.
    """

    def __init__(self, task: RobosuiteTask, render: bool = False) -> None:
        robosuite = _load_robosuite(task.name)
        self.task = task
        self.render_mode = "rgb_array" if render else None
        self.observation_space = observation_space(task.obs_spec)
        bound = np.inf if task.abs_action else 1.0
        self.action_space = gym.spaces.Box(-bound, bound, (task.action_dim,), np.float64)
        self.n_steps = 0
        self.renders = render or task.view is not None
        self.plain = render and task.view is None  # nobody acts on the frames
        if not self.renders:
            compile_once(robosuite, lambda: self._use(robosuite))
        self.sim_env = self._made(robosuite)

    def _use(self, robosuite: Any) -> None:
        """Call what numba compiles: a world that is made, reset, acted in and left."""
        before = np.random.get_state()
        world = self._made(robosuite)
        world.reset()
        world.step(np.zeros(world.action_dim))
        world.close()
        np.random.set_state(before)

    def _made(self, robosuite: Any) -> Any:
        """The world in robosuite."""
        task = self.task
        # a hard reset draws the sizes of things anew, so a seed fixes the whole episode
        return robosuite.make(
            task.made.env_name,
            has_renderer=False,
            has_offscreen_renderer=self.renders,
            use_object_obs=True,
            reward_shaping=False,
            ignore_done=True,
            hard_reset=True,
            **task.made.robot_arguments,
            **cameras_of(task),
            **task.arguments,
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self.n_steps = 0
        if seed is not None:
            np.random.seed(seed)
        obs, info = self._started(seed)
        return self._seen(obs), info

    def _started(self, seed: int | None) -> tuple[Mapping[str, Any], dict[str, Any]]:
        """A new episode, after the generator was seeded: what robosuite shows, and the info."""
        obs = self.sim_env.reset()
        self._measure()  # a hard reset makes a new simulation
        return obs, {}

    def _measure(self) -> None:
        """Each substep of a new simulation is sampled from now on, and a plain film is dull."""
        import mujoco

        if self.plain:
            # reflections double the time of a frame without a GPU
            self.reflectance = self.sim_env.sim.model.mat_reflectance.copy()
            self.sim_env.sim.model.mat_reflectance[:] = 0.0

        sim, robots, mj_step = self.sim_env.sim, self.sim_env.robots, mujoco.mj_step
        model, data = sim.model._model, sim.data._data
        n_substeps = int(self.sim_env.control_timestep / self.sim_env.model_timestep)
        meter = EnergyMeter(model, data, n_substeps, model.opt.timestep)

        def step(with_udd: bool = True) -> None:
            mj_step(model, data)
            meter.sample()

        sim.step, self.meter = step, meter
        self.effectors = [data.site_xpos[robot.eef_site_id] for robot in robots]  # views
        self.positions = data.qpos
        self.arms = np.concatenate([robot._ref_joint_pos_indexes for robot in robots])

    def motion(self) -> Motion:
        effectors = np.concatenate(self.effectors)
        return Motion(effectors, self.positions[self.arms], self.meter.energy_j())

    def model_xml(self) -> str:
        """The same whether the episode is filmed or not."""
        model = self.sim_env.sim.model
        if not self.plain:
            return str(model.get_xml())
        model.mat_reflectance[:] = self.reflectance
        xml = str(model.get_xml())
        model.mat_reflectance[:] = 0.0
        return xml

    def step(self, action: FloatArray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.n_steps += 1
        obs = self._act(pose_command(action) if self.task.abs_action else action)
        done = bool(self.sim_env._check_success())
        return self._seen(obs), float(done), done, self.n_steps >= self.task.max_steps, {}

    def _act(self, command: FloatArray) -> Mapping[str, Any]:
        """A control step."""
        self.meter.begin()
        obs: Mapping[str, Any] = self.sim_env.step(command)[0]
        return obs

    def _numbers(self, obs: Mapping[str, Any]) -> dict[str, FloatArray]:
        """{part of an observation: its numbers}."""
        return {part: numbers_of(obs, part) for part in self.task.obs_parts}

    def _picture(self, rendered: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) as it is shown; robosuite's are upside down."""
        return rendered[::-1]

    def _seen(self, obs: Mapping[str, Any]) -> Any:
        """What robosuite shows, under our names."""
        view, numbers = self.task.view, self._numbers(obs)
        if view is None:
            return np.concatenate(list(numbers.values()))
        pictures = {
            name: np.ascontiguousarray(self._picture(obs[f"{camera}_image"]).transpose(2, 0, 1))
            for name, camera in view.filmed.items()
        }
        objects = {OBJECT: numbers_of(obs, OBJECT)} if view.objects else {}
        if view.parts:
            return {**numbers, **objects, **pictures}
        return {STATE: np.concatenate(list(numbers.values())), **objects, **pictures}

    def render(self) -> NDArray[np.uint8]:
        frame: NDArray[np.uint8] = self.sim_env.sim.render(
            height=FRAME_SIZE, width=FRAME_SIZE, camera_name=self.task.film_camera
        )
        return frame[::-1]

    def close(self) -> None:
        if self.renders:
            # left to the garbage collector, it fails noisily when the interpreter exits
            context = self.sim_env.sim._render_context_offscreen
            context.gl_ctx.make_current()
            context.con.free()
            context.gl_ctx.free()
        self.sim_env.close()


def numbers_of(obs: Mapping[str, Any], part: str) -> FloatArray:
    return np.asarray(obs["object-state" if part == OBJECT else part], np.float64)


def cameras_of(task: RobosuiteTask) -> dict[str, Any]:
    """What robosuite is told of the pictures in an observation."""
    if task.view is None:
        return {"use_camera_obs": False}
    cameras, size = list(dict.fromkeys(task.view.filmed.values())), task.view.image_size
    return {
        "use_camera_obs": True,
        "camera_names": cameras,
        "camera_heights": size,
        "camera_widths": size,
    }


def _load_robosuite(task: str) -> Any:
    # its handler prints hints about a settings file nobody needs, in every worker
    logging.getLogger("robosuite_logs").addFilter(lambda r: r.levelno >= logging.ERROR)
    try:
        robosuite = importlib.import_module("robosuite")
    except ImportError as error:
        raise ImportError(f"{task} needs robosuite 1.4: {Task.install}") from error
    if not robosuite.__version__.startswith("1.4."):
        raise ImportError(
            f"{task} needs robosuite 1.4, got {robosuite.__version__}: {Task.install}"
        )
    return robosuite
