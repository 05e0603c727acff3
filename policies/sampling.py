"""DDPM and DDIM as a table: one row of coefficients per denoising step.

Every step of both samplers has the form

    x0   = clip(in_x * x + in_out * out)
    prev = x0_scale * x0 + x_scale * x + out_scale * out + sigma * z

with x the trajectory, out the network's output and z fresh noise, so a sampler is nine numbers a
step that are known before the run. Ho et al. 2020 (DDPM, eq. 6-7, 15) and Song et al. 2021 (DDIM,
eq. 12, 16); the schedules, spacings and variances are those of diffusers' DDPMScheduler and
DDIMScheduler, which the tests hold them to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

ALLOWED: dict[str, tuple[str, ...]] = {
    "kind": ("ddpm", "ddim"),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large"),
    "timestep_spacing": ("leading", "linspace", "trailing"),
}


@dataclass
class SamplerConfig:
    """Settings of a sampler, under diffusers' names; `steps` is the network calls of a query."""

    kind: str = "ddpm"
    steps: int = 100
    num_train_timesteps: int = 100
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "squaredcos_cap_v2"
    trained_betas: list[float] | None = None
    prediction_type: str = "epsilon"
    variance_type: str = "fixed_small"
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    rescale_betas_zero_snr: bool = False
    eta: float = 0.0
    use_clipped_model_output: bool = False

    def __post_init__(self) -> None:
        for name, allowed in ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"sampler.{name} must be one of {', '.join(allowed)}, "
                    f"got {getattr(self, name)!r}"
                )
        if self.num_train_timesteps < 1:
            raise ValueError(
                f"sampler.num_train_timesteps must be at least 1, got {self.num_train_timesteps}"
            )
        if not 1 <= self.steps <= self.num_train_timesteps:
            raise ValueError(
                f"sampler.steps must be from 1 to {self.num_train_timesteps} "
                f"(the timesteps of the training), got {self.steps}"
            )
        if self.kind == "ddim" and self.beta_schedule == "sigmoid":
            raise ValueError("sampler.beta_schedule=sigmoid exists for ddpm only, got kind=ddim")
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ValueError(
                "sampler.rescale_betas_zero_snr needs prediction_type sample or v_prediction, "
                "got epsilon (the first step would divide by zero)"
            )
        if not 0 <= self.eta <= 1:
            raise ValueError(f"sampler.eta must be from 0 to 1, got {self.eta}")
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(
                f"sampler.trained_betas must hold num_train_timesteps = {self.num_train_timesteps} "
                f"numbers, got {len(self.trained_betas)}"
            )
        last = int(timesteps(self).max())
        if last >= self.num_train_timesteps:
            raise ValueError(
                f"sampler.steps_offset must keep timesteps below {self.num_train_timesteps}, "
                f"got {self.steps_offset} (largest timestep {last})"
            )

    def with_steps(self, kind: str | None = None, steps: int | None = None) -> SamplerConfig:
        """The same diffusion process sampled by another sampler or in another number of steps."""
        return replace(self, kind=kind or self.kind, steps=steps or self.steps)


@dataclass(frozen=True)
class SamplerTable:
    """The coefficients of each step, float32 (N,), and the timesteps, int64, noisiest first.

    `draws[s]` says whether step s consumes noise, which it may do with sigma 0.
    """

    timesteps: np.ndarray
    in_x: np.ndarray
    in_out: np.ndarray
    x0_scale: np.ndarray
    x_scale: np.ndarray
    out_scale: np.ndarray
    sigma: np.ndarray
    draws: np.ndarray
    clip: float | None

    def __len__(self) -> int:
        return len(self.timesteps)

    def step(self, s: int, x: Tensor, out: Tensor, noise: Tensor | None) -> Tensor:
        """Trajectory and network output (B, T, D) of step s -> the trajectory of the next.

        `noise` has the same shape where `draws[s]`, and is None elsewhere.
        """
        x0 = self.in_x[s].item() * x + self.in_out[s].item() * out
        if self.clip is not None:
            x0 = x0.clamp(-self.clip, self.clip)
        prev: Tensor = self.x0_scale[s].item() * x0
        if self.x_scale[s]:
            prev = prev + self.x_scale[s].item() * x
        if self.out_scale[s]:
            prev = prev + self.out_scale[s].item() * out
        return prev if noise is None else prev + self.sigma[s].item() * noise


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

SPACINGS: dict[str, Callable[[SamplerConfig], np.ndarray]] = {
    "leading": lambda c: (
        np.arange(c.steps)[::-1] * (c.num_train_timesteps // c.steps) + c.steps_offset
    ),
    "linspace": lambda c: np.linspace(0, c.num_train_timesteps - 1, c.steps).round()[::-1],
    "trailing": lambda c: (
        np.round(np.arange(c.num_train_timesteps, 0, -c.num_train_timesteps / c.steps)) - 1
    ),
}


def timesteps(config: SamplerConfig) -> np.ndarray:
    """(N,) int64, the noisiest first."""
    return SPACINGS[config.timestep_spacing](config).astype(np.int64)


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


def sampler_table(config: SamplerConfig) -> SamplerTable:
    """The whole sampler as numbers, in float32 and in diffusers' order of operations.

    1 - a / a_prev loses three digits in float32; rounding it otherwise moves actions by 1e-5.
    """
    bar, t = alphas_cumprod(config), timesteps(config)
    one = np.float32(1)
    ddpm = config.kind == "ddpm"
    before = np.r_[t[1:], -1] if ddpm else t - config.num_train_timesteps // config.steps
    final = one if ddpm or config.set_alpha_to_one else bar[0]
    a, a_prev = bar[t], np.where(before >= 0, bar[before.clip(0)], final)
    b, b_prev, step_alpha = one - a, one - a_prev, a / a_prev
    step_beta = one - step_alpha
    posterior = b_prev / b * step_beta
    zero = np.zeros_like(a)
    with np.errstate(
        divide="ignore", invalid="ignore"
    ):  # alpha-bar is 0 with rescale_betas_zero_snr
        in_x, in_out = {
            "epsilon": (1 / np.sqrt(a), -np.sqrt(b) / np.sqrt(a)),
            "sample": (zero, zero + 1),
            "v_prediction": (np.sqrt(a), -np.sqrt(b)),
        }[config.prediction_type]
    if ddpm:
        draws = t > 0
        variance = step_beta if config.variance_type == "fixed_large" else posterior.clip(1e-20)
        sigma = np.where(draws, np.sqrt(variance), zero)
        x0_scale = np.sqrt(a_prev) * step_beta / b
        x_scale, out_scale = np.sqrt(step_alpha) * b_prev / b, zero
    else:
        draws = np.full(len(t), config.eta > 0)
        sigma = np.float32(config.eta) * np.sqrt(posterior.clip(0))
        direction = np.sqrt((b_prev - sigma**2).clip(0))
        by_x0, by_x, by_out = {  # the predicted noise, as a combination of x0, x and the output
            "clipped": (-np.sqrt(a) / np.sqrt(b), 1 / np.sqrt(b), zero),
            "epsilon": (zero, zero, zero + 1),
            "sample": (zero, 1 / np.sqrt(b), -np.sqrt(a) / np.sqrt(b)),
            "v_prediction": (zero, np.sqrt(b), np.sqrt(a)),
        }["clipped" if config.use_clipped_model_output else config.prediction_type]
        x0_scale = np.sqrt(a_prev) + direction * by_x0
        x_scale, out_scale = direction * by_x, direction * by_out
    clip = config.clip_sample_range if config.clip_sample else None
    return SamplerTable(t, in_x, in_out, x0_scale, x_scale, out_scale, sigma, draws, clip)
