"""The policies that a training may make: their networks, by the name of the family."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from envs import Task
from policies import (
    DitConfig,
    NetworkConfig,
    PolicyConfig,
    SamplerConfig,
    Sizes,
    TaskInfo,
    UnetConfig,
)
from policies.sampling.flow import VELOCITY
from skipstep.observations import STATE

from ..jobs.settings import SamplerChoice

if TYPE_CHECKING:
    from .settings import Training

OF_FAMILY = {  # settings that mean nothing to the others
    "transformer": (
        *("n_layer", "n_head", "n_emb", "p_drop_emb", "p_drop_attn", "causal_attn"),
        "n_cond_layers",
    ),
    "unet": ("unet",),
    "dit": ("dit",),
}
OF_OBJECTIVE = {  # and those that mean nothing to the other objective
    "diffusion": ("num_train_timesteps", "beta_schedule", "prediction_type", "clip"),
    "flow": ("flow",),
}


@dataclass
class UnetChoice:
    """Sizes of a UNet, see `policies.UnetConfig`; those of robomimic's diffusion policy."""

    down_dims: list[int] = field(default_factory=lambda: [256, 512, 1024])
    kernel_size: int = 5
    n_groups: int = 8
    cond_predict_scale: bool = True
    diffusion_step_embed_dim: int = 256


@dataclass
class DitChoice:
    """Sizes of a DiT, see `policies.DitConfig`; about those of the transformer."""

    n_layer: int = 6
    n_head: int = 8
    n_emb: int = 256
    timestep_embed_dim: int = 256
    use_rope: bool = True
    rope_base: float = 10000.0
    use_positional_encoding: bool = False
    p_drop_attn: float = 0.1


@dataclass
class FlowChoice:
    """How flow matching is trained, as LeRobot's multi_task_dit does it.

    steps: of the Euler sampler that the policy gets.
    sigma_min: noise that is left in the actions at time 1.
    times: beta, most (1 - u), u of a beta distribution with alpha and beta: more of the times near
        0, the noise; or uniform, from 0 to 1.
    """

    steps: int = 100
    sigma_min: float = 0.0
    times: str = "beta"
    most: float = 0.999
    alpha: float = 1.5
    beta: float = 1.0

    def __post_init__(self) -> None:
        if self.times not in ("beta", "uniform"):
            raise ValueError(f"runner.flow.times must be beta or uniform, got {self.times!r}")
        if not 0 < self.most <= 1:
            raise ValueError(f"runner.flow.most must be above 0 and at most 1, got {self.most}")
        for name in ("alpha", "beta"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"runner.flow.{name} must be above 0 and finite, got {getattr(self, name)}"
                )


def _transformer(runner: Training, width: int, cond_dim: int) -> Sizes:
    return NetworkConfig(
        input_dim=width,
        output_dim=width,
        horizon=runner.horizon,
        n_obs_steps=runner.n_obs_steps,
        cond_dim=cond_dim,
        obs_as_cond=runner.obs_as_cond,
        **{name: getattr(runner, name) for name in OF_FAMILY["transformer"]},
    )


def _unet(runner: Training, width: int, cond_dim: int) -> Sizes:
    return UnetConfig(
        input_dim=width,
        horizon=runner.horizon,
        n_obs_steps=runner.n_obs_steps,
        obs_as="global" if runner.obs_as_cond else "in-painting",
        cond_dim=cond_dim,
        oa_step_convention=True,
        **asdict(runner.unet),
    )


def _dit(runner: Training, width: int, cond_dim: int) -> Sizes:
    if not runner.obs_as_cond:
        raise ValueError(
            "runner.obs_as_cond must be true with runner.family=dit, whose blocks are told what is "
            "observed, got false"
        )
    return DitConfig(
        input_dim=width,
        horizon=runner.horizon,
        n_obs_steps=runner.n_obs_steps,
        cond_dim=cond_dim,
        **asdict(runner.dit),
    )


FAMILIES: dict[str, Callable[[Training, int, int], Sizes]] = {
    "transformer": _transformer,
    "unet": _unet,
    "dit": _dit,
}
"""Settings, numbers of a step of the trajectory, numbers of an observation -> sizes."""


def _diffusion(runner: Training) -> SamplerConfig:
    return SamplerConfig(
        steps=runner.num_train_timesteps,
        num_train_timesteps=runner.num_train_timesteps,
        beta_schedule=runner.beta_schedule,
        prediction_type=runner.prediction_type,
    )


def _flow(runner: Training) -> SamplerConfig:
    return SamplerConfig(
        kind="euler",
        steps=runner.flow.steps,
        prediction_type=VELOCITY,
        sigma_min=runner.flow.sigma_min,
    )


PROCESSES: dict[str, Callable[[Training], SamplerConfig]] = {
    "diffusion": _diffusion,
    "flow": _flow,
}
"""What is learnt: objective -> the sampler that a policy has unless told otherwise."""


def policy_config(runner: Training, task: Task, sampler: SamplerChoice) -> PolicyConfig:
    """Everything of the policy that is to be trained but its weights.

    Raises:
        ValueError: settings that do not fit each other, or the task.
    """
    spec = task.obs_spec
    encoder = None if spec.single else runner.encoder.config(spec)
    obs_dim = spec[STATE].shape[0] if encoder is None else encoder.out_dim
    width = task.action_dim + (0 if runner.obs_as_cond else obs_dim)
    return PolicyConfig(
        network=FAMILIES[runner.family](runner, width, obs_dim if runner.obs_as_cond else 0),
        obs_dim=obs_dim,
        action_dim=task.action_dim,
        n_action_steps=runner.n_action_steps,
        pred_action_steps_only=runner.pred_action_steps_only,
        sampler=sampler.over(PROCESSES[runner.objective](runner)),
        task=TaskInfo(**task.info()),
        encoder=encoder,
        control_hz=None if encoder is None else task.control_hz,
    )
