"""The policies that a training may make: their networks, by the name of the family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from envs import Task
from policies import NetworkConfig, PolicyConfig, SamplerConfig, Sizes, TaskInfo, UnetConfig
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
}


@dataclass
class UnetChoice:
    """Sizes of a UNet, see `policies.UnetConfig`; those of robomimic's diffusion policy."""

    down_dims: list[int] = field(default_factory=lambda: [256, 512, 1024])
    kernel_size: int = 5
    n_groups: int = 8
    cond_predict_scale: bool = True
    diffusion_step_embed_dim: int = 256


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


FAMILIES: dict[str, Callable[[Training, int, int], Sizes]] = {
    "transformer": _transformer,
    "unet": _unet,
}
"""Settings, numbers of a step of the trajectory, numbers of an observation -> sizes."""


def policy_config(runner: Training, task: Task, sampler: SamplerChoice) -> PolicyConfig:
    """Everything of the policy that is to be trained but its weights.

    Raises:
        ValueError: settings that do not fit each other, or the task.
    """
    spec = task.obs_spec
    encoder = None if spec.single else runner.encoder.config(spec)
    obs_dim = spec[STATE].shape[0] if encoder is None else encoder.out_dim
    width = task.action_dim + (0 if runner.obs_as_cond else obs_dim)
    process = SamplerConfig(
        steps=runner.num_train_timesteps,
        num_train_timesteps=runner.num_train_timesteps,
        beta_schedule=runner.beta_schedule,
        prediction_type=runner.prediction_type,
    )
    return PolicyConfig(
        network=FAMILIES[runner.family](runner, width, obs_dim if runner.obs_as_cond else 0),
        obs_dim=obs_dim,
        action_dim=task.action_dim,
        n_action_steps=runner.n_action_steps,
        pred_action_steps_only=runner.pred_action_steps_only,
        sampler=sampler.over(process),
        task=TaskInfo(**task.info()),
        encoder=encoder,
        control_hz=None if encoder is None else task.control_hz,
    )
