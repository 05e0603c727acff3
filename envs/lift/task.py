"""Lift: a Panda arm grasps a cube and lifts it, in robosuite 1.4 on MuJoCo.

The observation is that of robomimic's low-dimensional data: object state (10), position of the end
effector (3), its quaternion (4), gripper joints (2). robosuite 1.5 turns the sign of three of these
numbers and is refused: policies trained on earlier data would see wrong inputs without a word.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, ClassVar, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..motion import EnergyMeter, Motion
from ..robomimic_args import (
    ROBOSUITE_TYPE,
    differences,
    lift_arguments,
    read_lift_arguments,
    unsure,
)
from ..task import Env, EpisodeScore, FloatArray, Task

OBS_KEYS = ("object-state", "robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
CUBE, WAY, HAND = slice(0, 3), slice(7, 10), slice(10, 13)  # in an observation, in metres
SAME_M = 1e-3
FRAME_SIZE = 256
MESH_FOLDER = re.compile(r'file="[^"]*/robosuite/')

OSC_POSE: dict[str, Any] = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
    "kp": 150,
    "damping_ratio": 1,
    "impedance_mode": "fixed",
    "kp_limits": [0, 300],
    "damping_ratio_limits": [0, 10],
    "position_limits": None,
    "orientation_limits": None,
    "uncouple_pos_ori": True,
    "control_delta": True,
    "interpolation": None,
    "ramp_ratio": 0.2,
}


@dataclass
class LiftConfig:
    """Settings of Lift.

    Attributes:
        abs_action: actions are poses (position 3, rotation 6, gripper 1), not changes of pose (7).
        max_steps: an episode without success ends here.
        env_args: a robomimic HDF5 whose recorded environment arguments are used; if its controller
            is absolute, so are the actions.
        success: "once": an episode succeeds, and ends, at the first step with the cube lifted.
    """

    name: str = "lift"
    abs_action: bool = False
    max_steps: int = 400
    env_args: str | None = None
    success: str = "once"

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise ValueError(f"task.max_steps must be at least 1, got {self.max_steps}")
        if self.success != "once":
            raise ValueError(f"task.success must be 'once' for lift, got {self.success!r}")


class LiftTask(Task):
    """Success is the cube 4 cm above the table at any step; so is the score of 1."""

    name = "lift"
    obs_dim = 19
    memory_mb = 750
    obs_parts: ClassVar[Mapping[str, int]] = {
        "object": 10,
        "robot0_eef_pos": 3,
        "robot0_eef_quat": 4,
        "robot0_gripper_qpos": 2,
    }
    instruction = "Lift the cube."
    requires = ("robosuite", "mujoco")

    def __init__(self, config: LiftConfig | None = None) -> None:
        config = config or LiftConfig()
        self.max_steps = config.max_steps
        recorded = read_lift_arguments(config.env_args) if config.env_args is not None else {}
        controller = dict(recorded.pop("controller_configs", OSC_POSE))
        self.abs_action = config.abs_action or not controller["control_delta"]
        controller["control_delta"] = not self.abs_action
        self.arguments = {"control_freq": 20, **recorded, "controller_configs": controller}
        self.control_hz = float(self.arguments["control_freq"])
        self.action_dim = 10 if self.abs_action else 7

    def make_env(self, render: bool = False) -> Env:
        return LiftEnv(self, render)

    def score(self, rewards: FloatArray, info: Mapping[str, Any]) -> EpisodeScore:
        best = float(np.max(rewards, initial=0.0))
        return EpisodeScore(success=best >= 1.0, score=best)

    def hold(self, action: FloatArray) -> FloatArray:
        """No change of pose, and the gripper as commanded: one that grasps must go on closing."""
        if self.abs_action:
            return action
        return np.concatenate([np.zeros(len(action) - 1), action[-1:]])

    def motion(self, env: Env) -> Motion:
        """The end effector is where it was a simulator's substep ago, as in the observation."""
        return cast(LiftEnv, env).motion()

    def state(self, env: Env) -> FloatArray:
        """Time, joint positions (16) and velocities (15), as robosuite flattens them."""
        return np.asarray(cast(LiftEnv, env).sim_env.sim.get_state().flatten(), np.float64)

    def model(self, env: Env) -> str:
        """The XML of this episode's cube; robosuite finds its meshes from "robosuite/" on."""
        xml = cast(LiftEnv, env).model_xml()
        return MESH_FOLDER.sub('file="robosuite/', xml)

    def env_args(self) -> dict[str, Any]:
        """As robomimic 0.3 has it: control_delta, of robosuite 1.4, says what actions are."""
        return {
            "env_name": "Lift",
            "env_version": metadata.version("robosuite"),
            "type": ROBOSUITE_TYPE,
            "env_kwargs": {
                "robots": "Panda",
                "has_renderer": False,
                "has_offscreen_renderer": False,
                "ignore_done": True,
                "use_object_obs": True,
                "use_camera_obs": False,
                "reward_shaping": False,
                **self.arguments,
            },
        }

    def check_recorded(self, recorded: Any, path: str, actions: bool = True) -> list[str]:
        """Refuses another robosuite, robot or controller; other physics is a warning."""
        arguments = {} if recorded is None else lift_arguments(recorded, "env_args", path)
        doubts = [unsure(recorded, path)]
        others = differences(arguments, self.arguments) if arguments else []
        if others:
            doubts.append(f"{path} was recorded with {', '.join(others)}: see task.env_args")
        return [doubt for doubt in doubts if doubt]

    def contradiction(self, obs: NDArray[Any]) -> str | None:
        """Where 1.4 has the way from cube to hand, robosuite 1.5 has that from hand to cube.

        The numbers tell it of files that cannot say it, such as an npz.
        """
        if obs.shape[1] != self.obs_dim:
            return None
        way = (obs[:, HAND] - obs[:, CUBE]).astype(np.float64)
        far = np.linalg.norm(way, axis=1) > 10 * SAME_M
        turned = np.linalg.norm(obs[:, WAY] + way, axis=1) < SAME_M
        if not far.any() or turned[far].mean() <= 0.5:
            return None
        return (
            "object 7 to 9 must be the hand's place less the cube's, as robosuite 1.4 has it, "
            "got the opposite, as robosuite from 1.5 on has it"
        )

    def robomimic_actions(self, actions: FloatArray) -> FloatArray:
        """Absolute actions have an axis-angle rotation there: (k, 10) to (k, 7)."""
        return np.array([pose_command(a) for a in actions]) if self.abs_action else actions


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


def pose_command(action: FloatArray) -> FloatArray:
    """Turn (position 3, rotation 6, gripper 1) into (position 3, axis-angle 3, gripper 1).

    The six numbers are the first two rows of a rotation matrix, made orthonormal by Gram-Schmidt
    (Zhou et al. 2019, "On the Continuity of Rotation Representations in Neural Networks").
    """
    from scipy.spatial.transform import Rotation  # not at the top: it takes half a second

    first, second = action[3:6], action[6:9]
    x = first / np.linalg.norm(first)
    y = second - (x @ second) * x
    y /= np.linalg.norm(y)
    axis_angle = Rotation.from_matrix(np.stack([x, y, np.cross(x, y)])).as_rotvec()
    return np.concatenate([action[:3], axis_angle, action[9:]])


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
