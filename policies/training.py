"""The training objective of a diffusion policy, its optimizer, and its moving average of weights.

Ho et al. 2020 (eq. 14) over action chunks (Chi et al. 2023), as the reference implementation
computes it. Every function takes its randomness as an argument.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .policy import DiffusionPolicy
from .sampling.table import alphas_cumprod

INIT_STD = 0.02


@dataclass(frozen=True)
class Batch:
    """obs (B, horizon, obs_dim) and action (B, horizon, action_dim), in the units of the env."""

    obs: Tensor
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
    obs = policy.normalizer.normalize("obs", batch.obs)
    if not policy.sizes.obs_as_cond:
        return torch.cat([action, obs], dim=-1), None
    if policy.config.pred_action_steps_only:
        first = policy.n_obs_steps - 1
        action = action[:, first : first + policy.n_action_steps]
    return action, obs[:, : policy.n_obs_steps]


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
    noisy = a * x0 + b * noise
    visible = torch.zeros_like(x0, dtype=torch.bool)
    if cond is None:
        visible[:, : policy.n_obs_steps, policy.action_dim :] = True
    out = policy.model(torch.where(visible, x0, noisy), timesteps, cond).float()
    error = (out - TARGETS[sampler.prediction_type](x0, noise, a, b)) ** 2
    loss: Tensor = error.masked_fill(visible, 0.0).flatten(1).mean(dim=1).mean()
    return loss


@torch.no_grad()
def init_weights(model: nn.Module, generator: torch.Generator) -> None:
    """MinGPT's initialisation: matrices and positions N(0, 0.02), biases 0, norms 1 and 0."""
    norms = {id(p) for m in model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif id(parameter) in norms:
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, INIT_STD, generator=generator)


def make_optimizer(
    model: nn.Module, lr: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """AdamW; only the matrices of linear and attention layers decay."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas)


def learning_rate(step: int, n_steps: int, lr: float, warmup: int) -> float:
    """Linear warm-up, then half a cosine down to 0 at `n_steps`; of the update after `step`."""
    if step < warmup:
        return lr * step / warmup
    progress = (step - warmup) / max(1, n_steps - warmup)
    return lr * max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass
class EMAConfig:
    """Decay 1 - (1 + n / inv_gamma) ** -power, kept in [min_value, max_value]."""

    power: float = 0.75
    inv_gamma: float = 1.0
    min_value: float = 0.0
    max_value: float = 0.9999
    update_after_step: int = 0

    def __post_init__(self) -> None:
        if self.inv_gamma <= 0:
            raise ValueError(f"ema.inv_gamma must be positive, got {self.inv_gamma}")
        if not 0 <= self.min_value <= self.max_value <= 1:
            raise ValueError(
                f"ema.min_value and max_value must rise within 0 to 1, "
                f"got {self.min_value}, {self.max_value}"
            )

    def decay(self, n_updates: int) -> float:
        """Weight of the average in the update that follows `n_updates` earlier ones."""
        n = n_updates - self.update_after_step - 1
        if n <= 0:
            return 0.0
        value: float = 1 - (1 + n / self.inv_gamma) ** -self.power
        return max(self.min_value, min(value, self.max_value))


class EMA:
    """A policy whose weights are the moving average of another's."""

    def __init__(self, policy: DiffusionPolicy, config: EMAConfig) -> None:
        self.policy = copy.deepcopy(policy).eval().requires_grad_(False)
        self.config = config

    @torch.no_grad()
    def update(self, model: nn.Module, n_updates: int) -> None:
        decay = self.config.decay(n_updates)
        for ours, theirs in zip(self.policy.model.parameters(), model.parameters(), strict=True):
            ours.mul_(decay).add_(theirs, alpha=1 - decay)
