"""What a policy is trained for: to say the noise, or the velocity, of a noisy trajectory.

Ho et al. 2020 (eq. 14) over action chunks (Chi et al. 2023), as the reference implementation
computes it, and flow matching (Lipman et al. 2023), as LeRobot's multi_task_dit does. Every
function takes its randomness as an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .policy import DiffusionPolicy
from .sampling.table import alphas_cumprod


@dataclass(frozen=True)
class Batch:
    """obs (B, horizon, obs_dim) and action (B, horizon, action_dim), in the units of the env.

    Of a policy with an encoder obs are {name: (B, n_obs_steps, ...)}, images uint8.
    """

    obs: Tensor | Mapping[str, Tensor]
    action: Tensor


Target = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
TARGETS: dict[str, Target] = {  # of clean trajectory, noise, sqrt(alpha-bar), sqrt(1 - alpha-bar)
    "epsilon": lambda x0, noise, a, b: noise,
    "sample": lambda x0, noise, a, b: x0,
    "v_prediction": lambda x0, noise, a, b: a * noise - b * x0,
}


def trajectory_shape(policy: DiffusionPolicy, n: int) -> tuple[int, int, int]:
    """(B, T, D) of what is denoised."""
    length = policy.n_action_steps if policy.config.pred_action_steps_only else policy.horizon
    return n, length, policy.sizes.input_dim


def clean_trajectory(policy: DiffusionPolicy, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """The normalised trajectory (B, T, D) and the observations that are its condition."""
    action = policy.normalizer.normalize("action", batch.action)
    if isinstance(batch.obs, Mapping):
        cond = policy.encoded(batch.obs)
    else:
        obs = policy.normalizer.normalize("obs", batch.obs)
        if not policy.sizes.obs_as_cond:
            return torch.cat([action, obs], dim=-1), None
        cond = obs[:, : policy.n_obs_steps]
    if policy.config.pred_action_steps_only:
        first = policy.n_obs_steps - 1
        action = action[:, first : first + policy.n_action_steps]
    return action, cond


def diffusion_loss(
    policy: DiffusionPolicy, batch: Batch, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """Mean squared error of the network's prediction.

    In-painting: the observed part of the noisy trajectory is the clean one, and its error counts
    as 0 (but in the mean's denominator, as in the reference implementation).

    Args:
        policy: what is trained.
        batch: windows of `horizon` steps.
        noise: standard normal, of `trajectory_shape`.
        timesteps: (B,) integers below num_train_timesteps.
    """
    sampler = policy.config.sampler
    x0, cond = clean_trajectory(policy, batch)
    bar = torch.from_numpy(alphas_cumprod(sampler)).to(x0.device)[timesteps][:, None, None]
    a, b = bar.sqrt(), (1 - bar).sqrt()
    target = TARGETS[sampler.prediction_type](x0, noise, a, b)
    return _error(policy, (x0, cond), a * x0 + b * noise, timesteps, target)


def flow_loss(policy: DiffusionPolicy, batch: Batch, noise: Tensor, times: Tensor) -> Tensor:
    """Mean squared error of the predicted velocity (Lipman et al. 2023, equation 23).

    Args:
        policy: what is trained, with a sampler that follows a velocity.
        batch: windows of `horizon` steps.
        noise: standard normal, of `trajectory_shape`.
        times: (B,) from 0, the noise, to 1, the actions.
    """
    x0, cond = clean_trajectory(policy, batch)
    kept, t = 1 - policy.config.sampler.sigma_min, times[:, None, None]
    noisy = t * x0 + (1 - kept * t) * noise
    return _error(policy, (x0, cond), noisy, times, x0 - kept * noise)


def flow_times(
    n: int, generator: torch.Generator, beta: tuple[float, float] | None, most: float = 1.0
) -> Tensor:
    """(n,) float32 times of flow matching.

    Args:
        n: how many.
        generator: of all that is drawn.
        beta: times are most (1 - u) with u of this beta distribution, so with (1.5, 1) more of them
            near 0 (Black et al. 2024, pi0); None: uniform from 0 to 1.
        most: the largest.
    """
    if beta is None:
        return torch.rand(n, generator=generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    drawn = np.random.default_rng(seed).beta(*beta, n)
    return torch.from_numpy(most * (1 - drawn)).float()


def _error(
    policy: DiffusionPolicy,
    clean: tuple[Tensor, Tensor | None],
    noisy: Tensor,
    timesteps: Tensor,
    target: Tensor,
) -> Tensor:
    """Mean squared error of what the network makes of a noisy trajectory; see `diffusion_loss`."""
    x0, cond = clean
    visible = torch.zeros_like(x0, dtype=torch.bool)
    if cond is None:
        visible[:, : policy.n_obs_steps, policy.action_dim :] = True
    out = policy.model(torch.where(visible, x0, noisy), timesteps, cond).float()
    error = (out - target) ** 2
    loss: Tensor = error.masked_fill(visible, 0.0).flatten(1).mean(dim=1).mean()
    return loss
