"""The settings of runner=train; what is left open, a task fills in."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from envs import Task
from policies.data.pictures import CACHE_MB
from policies.families import family_named
from policies.training import EMAConfig

from .networks import (
    FAMILIES,
    OF_FAMILY,
    OF_OBJECTIVE,
    PROCESSES,
    DitChoice,
    FlowChoice,
    UnetChoice,
)
from .observing import EncoderChoice

WARMUP = 500
CHOICES = {
    "precision": ("auto", "fp32", "bf16"),
    "normalizer": ("limits", "gaussian"),
    "objective": tuple(PROCESSES),
    "family": (None, *FAMILIES),
    "network": (None, *FAMILIES),
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
    "cache_mb": 0,
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
    family: str | None = None
    network: str | None = None
    objective: str = "diffusion"
    n_layer: int = 8
    n_head: int = 4
    n_emb: int = 256
    p_drop_emb: float = 0.0
    p_drop_attn: float = 0.1
    causal_attn: bool = True
    obs_as_cond: bool = True
    n_cond_layers: int = 0
    pred_action_steps_only: bool = False
    unet: UnetChoice = field(default_factory=UnetChoice)
    dit: DitChoice = field(default_factory=DitChoice)
    flow: FlowChoice = field(default_factory=FlowChoice)
    encoder: EncoderChoice = field(default_factory=EncoderChoice)
    num_train_timesteps: int = 100
    beta_schedule: str = "squaredcos_cap_v2"
    prediction_type: str = "epsilon"
    n_steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    warmup: int | None = None
    weight_decay: float | None = None
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
    cache_mb: float = CACHE_MB
    ema: EMAConfig = field(default_factory=EMAConfig)

    def __post_init__(self) -> None:
        for name, least in AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"runner.{name} must be at least {least}, got {value}")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                words = ", ".join(name for name in allowed if name)
                or_null = "null or " if None in allowed else ""
                raise ValueError(
                    f"runner.{name} must be {or_null}one of {words}, got {getattr(self, name)!r}"
                )
        if None not in (self.family, self.network) and self.family != self.network:
            raise ValueError(
                f"runner.network is another name of runner.family, got {self.network} and "
                f"{self.family}"
            )
        if self.lr is not None and not self.lr > 0:
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


@dataclass
class Training(TrainConfig):
    """Settings with nothing left open."""

    horizon: int = 0
    n_obs_steps: int = 0
    n_action_steps: int = 0
    family: str = ""
    n_steps: int = 0
    batch_size: int = 0
    lr: float = 1.0
    warmup: int = 0
    weight_decay: float = 0.0
    obs_range_eps: float = 0.0
    action_range_eps: float = 0.0
    obs_noise: float = 0.0


def fill(config: TrainConfig, task: Task) -> Training:
    """Put the task's and the family's defaults where the settings say nothing.

    Raises:
        ValueError: a setting means nothing to this task or family.
    """
    values = vars(config)
    n_steps = task.training.n_steps if config.n_steps is None else config.n_steps
    family = config.family or config.network or ("unet" if task.obs_spec.images else "transformer")
    recipe = family_named(family).recipe
    assert recipe is not None
    usual = {**vars(task.training), "obs_noise": task.observation_noise(), "family": family}
    usual |= {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    usual["warmup"] = min(WARMUP, n_steps // 10)
    opened = {k: usual[k] for k in Training.__annotations__ if values.get(k) is None}
    training = Training(**{**values, **opened, "network": None})
    if training.obs_noise and task.noise_amplitude is None:
        raise ValueError(
            f"runner.obs_noise must be 0 or null for task={task.name} (no amplitudes known), "
            f"got {training.obs_noise}"
        )
    _check_meaning(training, task)
    return training


def _check_meaning(training: Training, task: Task) -> None:
    usual = TrainConfig()
    asked = {f.name for f in fields(usual) if getattr(training, f.name) != getattr(usual, f.name)}
    for setting, owners in (("family", OF_FAMILY), ("objective", OF_OBJECTIVE)):
        own = getattr(training, setting)
        for owner, names in owners.items():
            strange = asked.intersection(names)
            if owner != own and strange:
                raise ValueError(
                    f"runner.{min(strange)} is of runner.{setting}={owner}, this training is of "
                    f"runner.{setting}={own}"
                )
    if "encoder" in asked and not task.obs_spec.images:
        raise ValueError(
            f"runner.encoder is of images, task={task.name} shows {', '.join(task.obs_spec)} alone"
        )
