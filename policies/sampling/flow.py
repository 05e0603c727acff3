"""Flow matching (Lipman et al. 2023, arXiv 2210.02747): a velocity, followed from noise to actions.

At time t, from 0 to 1, the trajectory is t x + (1 - (1 - sigma_min) t) z with x the actions and z
the noise, and the network says its velocity x - (1 - sigma_min) z. That is how LeRobot's
multi_task_dit is trained, and the times are those that it shows its network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from .config import SamplerConfig

VELOCITY = "velocity"
CALLS = {"euler": 1, "rk4": 4}
"""Kinds of samplers that follow a velocity: how often a step calls the network."""
SETTINGS = ("kind", "steps", "prediction_type", "sigma_min")
"""What of a `SamplerConfig` they read; all else is of diffusion."""


def grid(config: SamplerConfig) -> np.ndarray:
    """(steps + 1,) float32: the ends of the steps, from 0 to 1."""
    return np.asarray(torch.linspace(0, 1, config.steps + 1).numpy())


def times(config: SamplerConfig) -> np.ndarray:
    """(N,) float32: the time that each call of the network is shown.

    Example:
        >>> from policies import SamplerConfig
        >>> times(SamplerConfig("rk4", 2, prediction_type="velocity")).tolist()
        [0.0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0]
    """
    ends = grid(config)
    within = {"euler": (0.0,), "rk4": (0.0, 0.5, 0.5, 1.0)}[config.kind]
    dt = np.diff(ends).astype(np.float64)
    found = ends[:-1, None].astype(np.float64) + dt[:, None] * np.array(within)
    return np.asarray(found.astype(np.float32).ravel())


def alpha_bar(t: np.ndarray, sigma_min: float) -> np.ndarray:
    """(N,) float32: share of the actions in the trajectory's variance, as of diffusion."""
    signal, noise = t.astype(np.float64) ** 2, (1 - (1 - sigma_min) * t.astype(np.float64)) ** 2
    return np.asarray(signal / (signal + noise), dtype=np.float32)


def check_flow(config: SamplerConfig, usual: dict[str, object]) -> None:
    """Refuse settings of diffusion.

    Args:
        config: of a kind in `CALLS`.
        usual: the default of every setting.

    Raises:
        ValueError: one line with the setting.
    """
    for name, default in usual.items():
        if name not in SETTINGS and getattr(config, name) != default:
            raise ValueError(
                f"sampler.{name} is of diffusion, got {getattr(config, name)} with "
                f"sampler={config.kind}, which follows a velocity"
            )
    if config.steps < 1:
        raise ValueError(f"sampler.steps must be at least 1, got {config.steps}")
    if not 0 <= config.sigma_min < 1:
        raise ValueError(
            f"sampler.sigma_min must be at least 0 and below 1, got {config.sigma_min}"
        )


def check_prediction(kind: str, prediction: str, kinds: list[str]) -> None:
    """Refuse a sampler that steps by something else than a policy predicts.

    Args:
        kind: of the sampler.
        prediction: of the policy.
        kinds: that there are.

    Raises:
        ValueError: one line that names those that can.
    """
    follows = kind in CALLS
    if follows == (prediction == VELOCITY):
        return
    able = [name for name in kinds if (name in CALLS) != follows]
    steps_by = "a velocity (flow matching)" if follows else "noise or clean actions (diffusion)"
    raise ValueError(
        f"sampler={kind} is of policies that predict {steps_by}, this one has prediction_type="
        f"{prediction}: take sampler={', '.join(able[:-1])} or {able[-1]}"
    )
