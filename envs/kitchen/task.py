"""Kitchen: a Franka arm completes some of seven tasks in any order (Relay Policy Learning).

The world is that of the kitchen which diffusion policies are trained and reported on; see env.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..motion import Motion
from ..robomimic_args import ROBOSUITE_TYPE, parsed
from ..task import JSON, EpisodeScore, FloatArray, Floats, Task, TrainingDefaults
from .data import (
    CONTROL_HZ,
    N_GOAL,
    N_JOINTS,
    N_POSITIONS,
    N_TASKS,
    NOISE_AMPLITUDE,
    kitchen_from_state,
)

if TYPE_CHECKING:
    from ..task import Env
    from .env import KitchenEnv


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
    obs_parts = MappingProxyType({"obs": N_POSITIONS + N_GOAL})
    instruction = "Complete as many of the seven kitchen tasks as you can."
    requires = ("gymnasium_robotics", "mujoco")
    training = TrainingDefaults(
        n_obs_steps=4,
        n_steps=9000,
        batch_size=64,
        obs_range_eps=5e-2,  # as the noise is of this size, smaller movements mean nothing
        action_range_eps=1e-3,
    )
    noise_amplitude = np.r_[NOISE_AMPLITUDE, np.zeros(N_GOAL)].astype(np.float32)

    def __init__(self, config: KitchenConfig | None = None) -> None:
        self.config = config or KitchenConfig()
        self.max_steps = self.config.max_steps

    def make_env(self, render: bool = False) -> Env:
        from .env import KitchenEnv  # the workers' gymnasium: a policy needs none

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
        return cast("KitchenEnv", env).motion()

    def state(self, env: Env) -> FloatArray:
        """Joint positions (30) and velocities (29), without the noise."""
        data = cast("KitchenEnv", env).robot.data
        return np.concatenate([data.qpos, data.qvel])

    def env_args(self) -> dict[str, Any]:
        """Not an environment of robomimic's: the settings are for those who read the file."""
        return {"env_name": "skipstep/kitchen", "type": 2, "env_kwargs": asdict(self.config)}

    def convert(self, obs: Floats, action: Floats) -> tuple[Floats, Floats]:
        return kitchen_from_state(obs, action, self.config.abs_action)

    def observation_noise(self) -> float:
        return float(self.config.robot_noise_ratio)

    def info(self) -> dict[str, Any]:
        said = ("abs_action", "robot_noise_ratio")
        return {"name": "kitchen_lowdim", **{name: getattr(self.config, name) for name in said}}

    @classmethod
    def reference_runner(cls, info: Mapping[str, Any]) -> dict[str, Any]:
        noise = info["robot_noise_ratio"]
        return {
            "_target_": "kitchen_lowdim_runner.KitchenLowdimRunner",
            "dataset_dir": "data/kitchen",
            "train_start_seed": 0,
            "max_steps": 280,
            "render_hw": [240, 360],
            "fps": 12.5,
            "robot_noise_ratio": 0.1 if noise is None else noise,
        }

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
