"""The training objective of a diffusion policy, its optimizer, and its moving average of weights.

Ho et al. 2020 (eq. 14) over action chunks (Chi et al. 2023), as the reference implementation
computes it. Every function takes its randomness as an argument; what dropout and random crops draw
comes from torch's default generator, as ever.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .families import family_named
from .family import Recipe
from .initial_weights import mingpt_weights as init_weights
from .policy import DiffusionPolicy
from .sampling.table import alphas_cumprod

ENCODER_DECAY = 1e-6  # weights of encoders, as diffusion_policy's image policies
__all__ = [
    "EMA",
    "Batch",
    "EMAConfig",
    "diffusion_loss",
    "init_weights",
    "learning_rate",
    "make_optimizer",
    "optimizer_of",
    "recipe_of",
    "trajectory_shape",
]


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
    noisy = a * x0 + b * noise
    visible = torch.zeros_like(x0, dtype=torch.bool)
    if cond is None:
        visible[:, : policy.n_obs_steps, policy.action_dim :] = True
    out = policy.model(torch.where(visible, x0, noisy), timesteps, cond).float()
    error = (out - TARGETS[sampler.prediction_type](x0, noise, a, b)) ** 2
    loss: Tensor = error.masked_fill(visible, 0.0).flatten(1).mean(dim=1).mean()
    return loss


def recipe_of(policy: DiffusionPolicy) -> Recipe:
    """How policies of this family are trained.

    Raises:
        ValueError: it is not known.
    """
    recipe = family_named(policy.sizes.family).recipe
    if recipe is None:
        raise ValueError(f"policies of family {policy.sizes.family} have no recipe to train them")
    return recipe


def make_optimizer(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    decays: Callable[[nn.Parameter], bool] = lambda parameter: parameter.ndim == 2,
) -> torch.optim.AdamW:
    """AdamW; unless told otherwise only the matrices of linear and attention layers decay."""
    decaying = [p for p in model.parameters() if decays(p)]
    others = [p for p in model.parameters() if not decays(p)]
    groups = [
        {"params": decaying, "weight_decay": weight_decay},
        *([{"params": others, "weight_decay": 0.0}] if others else []),
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas)


def optimizer_of(policy: DiffusionPolicy, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW of a policy's network and encoder, as its family's recipe has it."""
    recipe = recipe_of(policy)
    optimizer = make_optimizer(policy.model, lr, weight_decay, recipe.betas, recipe.decays)
    if policy.encoder is not None and policy.n_encoder_parameters:
        parameters = list(policy.encoder.parameters())
        optimizer.add_param_group({"params": parameters, "weight_decay": ENCODER_DECAY})
    return optimizer


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
    """A policy whose weights are the moving average of another's.

    Of norms over batches, in an encoder, it has the other's own weights and statistics, as in the
    reference implementation: an average of the weights would fit none of the statistics.
    """

    def __init__(self, policy: DiffusionPolicy, config: EMAConfig) -> None:
        self.policy = copy.deepcopy(policy).eval().requires_grad_(False)
        self.config = config

    @torch.no_grad()
    def update(self, model: nn.Module, n_updates: int, encoder: nn.Module | None = None) -> None:
        """Take in the weights of the trained policy's network, and of its encoder if it has one."""
        decay = self.config.decay(n_updates)
        _average(self.policy.model, model, decay)
        if encoder is not None and self.policy.encoder is not None:
            _average(self.policy.encoder, encoder, decay)
            for ours, theirs in zip(self.policy.encoder.modules(), encoder.modules(), strict=True):
                if isinstance(ours, nn.BatchNorm2d):
                    ours.load_state_dict(theirs.state_dict())


def _average(ours: nn.Module, theirs: nn.Module, decay: float) -> None:
    for mean, parameter in zip(ours.parameters(), theirs.parameters(), strict=True):
        mean.mul_(decay).add_(parameter, alpha=1 - decay)
