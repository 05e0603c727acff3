"""How policies are trained: the optimizer, the learning rate, and the average of the weights.

What they are trained for is in losses.py, and is known here too. What dropout and random crops draw
comes from torch's default generator, as ever.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from .families import family_named
from .family import Recipe
from .initial_weights import mingpt_weights as init_weights
from .losses import Batch, diffusion_loss, flow_loss, flow_times, trajectory_shape
from .policy import DiffusionPolicy

ENCODER_DECAY = 1e-6  # weights of encoders, as diffusion_policy's image policies
__all__ = [
    "EMA",
    "Batch",
    "EMAConfig",
    "diffusion_loss",
    "flow_loss",
    "flow_times",
    "init_weights",
    "learning_rate",
    "make_optimizer",
    "optimizer_of",
    "recipe_of",
    "trajectory_shape",
]


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
