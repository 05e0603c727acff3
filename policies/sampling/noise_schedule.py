"""How much noise each training timestep has: the beta schedules of diffusers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from .config import SamplerConfig


def _alpha_bar(t: float) -> float:
    return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2


BETAS: dict[str, Callable[[SamplerConfig], Tensor]] = {
    "linear": lambda c: torch.linspace(c.beta_start, c.beta_end, c.num_train_timesteps),
    "scaled_linear": lambda c: (
        torch.linspace(c.beta_start**0.5, c.beta_end**0.5, c.num_train_timesteps) ** 2
    ),
    "squaredcos_cap_v2": lambda c: torch.tensor(
        [
            min(
                1
                - _alpha_bar((i + 1) / c.num_train_timesteps)
                / _alpha_bar(i / c.num_train_timesteps),
                0.999,
            )
            for i in range(c.num_train_timesteps)
        ]
    ),
    "sigmoid": lambda c: (
        torch.sigmoid(torch.linspace(-6, 6, c.num_train_timesteps)) * (c.beta_end - c.beta_start)
        + c.beta_start
    ),
}


def alphas_cumprod(config: SamplerConfig) -> np.ndarray:
    """(num_train_timesteps,) float32: alpha-bar."""
    betas = (
        BETAS[config.beta_schedule](config)
        if config.trained_betas is None
        else torch.tensor(config.trained_betas, dtype=torch.float32)
    )
    if config.rescale_betas_zero_snr:  # Lin et al. 2023, algorithm 1
        root = torch.cumprod(1 - betas, 0).sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        bar = root**2
        betas = 1 - torch.cat([bar[:1], bar[1:] / bar[:-1]])
    return torch.cumprod(1 - betas, 0).numpy()
