"""Kitchen: a Franka arm completes some of seven tasks in any order (Relay Policy Learning).

The physics is gymnasium-robotics' FrankaKitchen-v1; observations, noise, actions and rewards are
those of the kitchen that diffusion policies are trained and reported on. It differs in five things:
absolute joint targets; noise of the same ratio on robot and objects; an observation of joint
positions and 30 zeros where the goal was; completion seen through the noise; a task counts once.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..motion import EnergyMeter, Motion
from ..robomimic_args import ROBOSUITE_TYPE, parsed
from ..task import JSON, Env, EpisodeScore, FloatArray, Task

N_JOINTS = 9
N_ARM_JOINTS = 7  # the other two are the fingers, which slide
EFFECTOR = "end_effector"
SUBSTEPS_PER_SAMPLE = 4  # of the power: each of them would cost 4 % of the time and change 0.5 %
N_POSITIONS = 30
N_GOAL = 30
N_TASKS = 7
CONTROL_HZ = 12.5
COMPLETION_DISTANCE = 0.3
VELOCITY_SCALE = 2.0
FRAME_SIZE = 256

NOISE_AMPLITUDE = np.repeat(
    [0.1, 0.005, 0.0005, 0.005, 0.1, 0.005, 0.1, 0.005], [9, 2, 6, 3, 3, 3, 3, 1]
)


@dataclass
class KitchenConfig:
    """Settings of Kitchen.

    Attributes:
        abs_action: actions are joint positions to reach, not joint velocities.
        robot_noise_ratio: more of it makes the observed joints of robot and objects noisier.
        max_steps: an episode with tasks left ends here.
        success_tasks: how many of the 7 tasks make a success.
    """

    name: str = "kitchen"
    abs_action: bool = True
    robot_noise_ratio: float = 0.1
    max_steps: int = 280
    success_tasks: int = 4

    def __post_init__(self) -> None:
        if not 0.0 <= self.robot_noise_ratio < np.inf:
            raise ValueError(
                f"task.robot_noise_ratio must be at least 0, got {self.robot_noise_ratio}"
            )
        if self.max_steps < 1:
            raise ValueError(f"task.max_steps must be at least 1, got {self.max_steps}")
        if not 1 <= self.success_tasks <= N_TASKS:
            raise ValueError(f"task.success_tasks must be 1 to 7, got {self.success_tasks}")


class KitchenTask(Task):
    """The score is the share of the seven tasks completed."""

    name = "kitchen"
    obs_dim = N_POSITIONS + N_GOAL
    action_dim = N_JOINTS
    control_hz = CONTROL_HZ
    memory_mb = 350
    obs_parts: ClassVar[Mapping[str, int]] = {"obs": N_POSITIONS + N_GOAL}
    instruction = "Complete as many of the seven kitchen tasks as you can."
    requires = ("gymnasium_robotics", "mujoco")

    def __init__(self, config: KitchenConfig | None = None) -> None:
        self.config = config or KitchenConfig()
        self.max_steps = self.config.max_steps

    def make_env(self, render: bool = False) -> Env:
        return KitchenEnv(self.config, render)

    def score(self, rewards: FloatArray, info: Mapping[str, Any]) -> EpisodeScore:
        completed = list(info["completed_tasks"])
        n = len(completed)
        details: dict[str, JSON] = {"n_completed": n, "completed_tasks": completed}
        return EpisodeScore(n >= self.config.success_tasks, n / N_TASKS, details)

    def metrics(self, details: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Return p_1 to p_7: the share of episodes with at least so many tasks completed."""
        counts = np.array([d["n_completed"] for d in details])
        if not len(counts):
            return {}
        return {f"p_{n}": float(np.mean(counts >= n)) for n in range(1, N_TASKS + 1)}

    def hold(self, action: FloatArray) -> FloatArray:
        """The last target, or no velocity."""
        return action if self.config.abs_action else np.zeros_like(action)

    def success_step(self, rewards: FloatArray) -> int | None:
        """The step with which enough tasks were completed; a reward counts the new ones."""
        enough = np.flatnonzero(np.cumsum(rewards) >= self.config.success_tasks)
        return int(enough[0]) + 1 if len(enough) else None

    def subtask_steps(self, rewards: FloatArray, info: Mapping[str, Any]) -> dict[str, int]:
        steps = np.repeat(np.arange(len(rewards)) + 1, np.asarray(rewards, np.int64))
        return dict(zip(info["completed_tasks"], steps.tolist(), strict=True))

    def motion(self, env: Env) -> Motion:
        """Without the observation's noise; the end effector is where it was a substep ago."""
        return cast(KitchenEnv, env).motion()

    def state(self, env: Env) -> FloatArray:
        """Joint positions (30) and velocities (29), without the noise."""
        data = cast(KitchenEnv, env).robot.data
        return np.concatenate([data.qpos, data.qvel])

    def env_args(self) -> dict[str, Any]:
        """Not an environment of robomimic's: the settings are for those who read the file."""
        return {"env_name": "skipstep/kitchen", "type": 2, "env_kwargs": asdict(self.config)}

    def check_recorded(self, recorded: Any, path: str, actions: bool = True) -> list[str]:
        """Refuses a robot of robosuite, and what was collected here with the other actions."""
        if recorded is None:
            return []
        said, own = parsed(recorded, "env_args", path), self.env_args()
        if said.get("type") == ROBOSUITE_TYPE:
            raise ValueError(
                f"env_args must not name an environment of robosuite in {path}, "
                f"got {said.get('env_name')!r}"
            )
        kwargs = said.get("env_kwargs")
        if said.get("env_name") != own["env_name"] or not isinstance(kwargs, dict):
            return []
        absolute = kwargs.get("abs_action")
        if actions and absolute is not None and absolute != self.config.abs_action:
            raise ValueError(
                f"task.abs_action={self.config.abs_action} contradicts {path}, which was "
                f"collected with abs_action={absolute}"
            )
        return []


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
        raise ImportError(
            'kitchen needs gymnasium-robotics: pip install "skipstep[sim]"'
        ) from error
    return kitchen_env
