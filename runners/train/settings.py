"""The settings of runner=train, and what each task trains with unless told otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs import Task
from envs.kitchen.task import CONTROL_HZ, N_GOAL, N_JOINTS, NOISE_AMPLITUDE, VELOCITY_SCALE
from policies import TaskInfo
from policies.training import EMAConfig

Floats = NDArray[np.float32]
WARMUP = 500
HAND, REACH_M = slice(10, 13), 0.3  # in Lift's observation; a change is a metre away from it
CHOICES = {
    "precision": ("auto", "fp32", "bf16"),
    "normalizer": ("limits", "gaussian"),
}
AT_LEAST = {
    "horizon": 1,
    "n_obs_steps": 1,
    "n_action_steps": 1,
    "n_steps": 1,
    "batch_size": 1,
    "warmup": 0,
    "weight_decay": 0,
    "seed": 0,
    "obs_range_eps": 0,
    "action_range_eps": 0,
    "obs_noise": 0,
    "val_every": 0,
    "rollout_every": 0,
    "rollout_episodes": 1,
    "rollout_steps": 1,
    "rollout_seed": 0,
    "checkpoint_every": 1,
    "log_every": 1,
}


@dataclass
class TrainConfig:
    """What conf/runner/train.yaml explains; None is the task's default."""

    name: str = "train"
    data: Any = None
    kind: str = "auto"
    obs_keys: list[str] | None = None
    init: str | None = None
    horizon: int | None = None
    n_obs_steps: int | None = None
    n_action_steps: int | None = None
    n_layer: int = 8
    n_head: int = 4
    n_emb: int = 256
    p_drop_emb: float = 0.0
    p_drop_attn: float = 0.1
    causal_attn: bool = True
    obs_as_cond: bool = True
    n_cond_layers: int = 0
    pred_action_steps_only: bool = False
    num_train_timesteps: int = 100
    beta_schedule: str = "squaredcos_cap_v2"
    prediction_type: str = "epsilon"
    n_steps: int | None = None
    batch_size: int | None = None
    lr: float = 3e-4
    warmup: int | None = None
    weight_decay: float = 1e-3
    precision: str = "auto"
    seed: int = 0
    normalizer: str = "limits"
    clip: Any = None
    obs_range_eps: float | None = None
    action_range_eps: float | None = None
    obs_noise: float | None = None
    val_ratio: float = 0.05
    val_every: int = 500
    rollout_every: int = 0
    rollout_episodes: int = 4
    rollout_steps: int = 16
    rollout_seed: int = 200000
    checkpoint_every: int = 500
    log_every: int = 50
    ema: EMAConfig = field(default_factory=EMAConfig)

    def __post_init__(self) -> None:
        for name, least in AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"runner.{name} must be at least {least}, got {value}")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"runner.{name} must be one of {', '.join(allowed)}, got {getattr(self, name)}"
                )
        if not self.lr > 0:
            raise ValueError(f"runner.lr must be positive, got {self.lr}")
        for name in ("val_ratio", "p_drop_emb", "p_drop_attn"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"runner.{name} must be from 0 to 1, got {getattr(self, name)}")
        if self.clip is not None and self.clip is not False:
            number = isinstance(self.clip, (int, float)) and not isinstance(self.clip, bool)
            if not number or not 0 < self.clip < float("inf"):
                raise ValueError(
                    f"runner.clip must be null, false or a positive number, got {self.clip}"
                )
        names = self.data if isinstance(self.data, list) else [self.data]
        if self.data is not None and not (
            names and all(isinstance(name, str) and name for name in names)
        ):
            raise ValueError(
                f"runner.data must name a dataset (HDF5, npz, a LeRobot folder), got {self.data}"
            )
        if self.n_steps is not None and self.warmup is not None and self.warmup > self.n_steps:
            raise ValueError(
                f"runner.warmup must be at most n_steps = {self.n_steps}, got {self.warmup}"
            )

    @property
    def files(self) -> list[str]:
        return self.data if isinstance(self.data, list) else [self.data]


def as_it_is(obs: Floats, action: Floats, task: Task) -> tuple[Floats, Floats]:
    return obs, action


def kitchen_from_state(obs: Floats, action: Floats, task: Any) -> tuple[Floats, Floats]:
    """D4RL's state of 59 numbers -> the policy's 60: positions, no velocities, zeros for the goal.

    Velocity actions become absolute joint targets where the task has those.
    """
    if obs.shape[1] != 59:
        return obs, action
    joints, objects = obs[:, :N_JOINTS], obs[:, 2 * N_JOINTS : 2 * N_JOINTS + 21]
    if task.config.abs_action and action.shape[1] == N_JOINTS:
        action = joints + np.float32(VELOCITY_SCALE / CONTROL_HZ) * action
    return np.concatenate([joints, objects, np.zeros((len(obs), N_GOAL), np.float32)], 1), action


def lift_absolute(obs: Floats, action: Floats, task: Any) -> tuple[Floats, Floats]:
    """Absolute poses with an axis-angle (7 numbers), as robomimic has them -> with 6D (10).

    Changes of pose have 7 numbers too, and files do not say reliably which they hold (converted
    ones keep the recorded controller's control_delta), so the values decide: a pose to go to is
    near the hand.

    Raises:
        ValueError: `task.abs_action` contradicts the values.
    """
    if action.shape[1] != 7 or obs.shape[1] != task.obs_dim:
        return obs, action
    away = np.linalg.norm(action[:, :3] - obs[:, HAND], axis=1)
    absolute = bool(np.quantile(away, 0.9) < REACH_M)
    if absolute != task.abs_action:
        raise ValueError(
            f"actions look like {'poses' if absolute else 'changes of pose'}, "
            f"task.abs_action={str(task.abs_action).lower()} needs "
            f"{'changes of pose' if absolute else 'poses'}"
        )
    if not absolute:
        return obs, action
    from scipy.spatial.transform import Rotation  # not at the top: it takes half a second

    rows = Rotation.from_rotvec(action[:, 3:6]).as_matrix()[:, :2].reshape(-1, 6)
    return obs, np.concatenate([action[:, :3], rows, action[:, 6:]], 1).astype(np.float32)


@dataclass(frozen=True)
class TaskDefaults:
    """How a task is trained.

    Attributes:
        convert: what the file holds -> what the policy sees and does.
        amplitude: of the observation noise; None: the task has none.
        noise_ratio: of it, in the task's own observations.
        info: what is recorded in the checkpoint.
    """

    horizon: int = 16
    n_obs_steps: int = 2
    n_action_steps: int = 8
    n_steps: int = 3000
    batch_size: int = 128
    obs_range_eps: float = 1e-4
    action_range_eps: float = 1e-4
    robomimic_keys: tuple[str, ...] = ("obs",)
    convert: Callable[[Floats, Floats, Any], tuple[Floats, Floats]] = as_it_is
    amplitude: Floats | None = None
    noise_ratio: Callable[[Any], float] = lambda task: 0.0
    info: Callable[[Any], TaskInfo] = lambda task: TaskInfo(task.name)


TASK_DEFAULTS: dict[str, TaskDefaults] = {
    "lift": TaskDefaults(
        horizon=10,
        robomimic_keys=("object", "robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"),
        convert=lift_absolute,
        info=lambda task: TaskInfo("lift_lowdim", task.abs_action),
    ),
    "kitchen": TaskDefaults(
        n_obs_steps=4,
        n_steps=9000,
        batch_size=64,
        obs_range_eps=5e-2,  # as the noise is of this size, smaller movements mean nothing
        action_range_eps=1e-3,
        convert=kitchen_from_state,
        amplitude=np.r_[NOISE_AMPLITUDE, np.zeros(N_GOAL)].astype(np.float32),
        noise_ratio=lambda task: float(task.config.robot_noise_ratio),
        info=lambda task: TaskInfo(
            "kitchen_lowdim", task.config.abs_action, task.config.robot_noise_ratio
        ),
    ),
}


@dataclass
class Training(TrainConfig):
    """Settings with nothing left open."""

    horizon: int = 0
    n_obs_steps: int = 0
    n_action_steps: int = 0
    n_steps: int = 0
    batch_size: int = 0
    warmup: int = 0
    obs_range_eps: float = 0.0
    action_range_eps: float = 0.0
    obs_noise: float = 0.0


def fill(config: TrainConfig, defaults: TaskDefaults, task: Task) -> Training:
    """Put the task's defaults where the settings say nothing."""
    values = vars(config)
    n_steps = defaults.n_steps if config.n_steps is None else config.n_steps
    usual = {**vars(defaults), "obs_noise": defaults.noise_ratio(task)}
    usual["warmup"] = min(WARMUP, n_steps // 10)
    opened = {k: usual[k] for k in Training.__annotations__ if values[k] is None}
    training = Training(**{**values, **opened})
    if training.obs_noise and defaults.amplitude is None:
        raise ValueError(
            f"runner.obs_noise must be 0 or null for task={task.name} (no amplitudes known), "
            f"got {training.obs_noise}"
        )
    return training
