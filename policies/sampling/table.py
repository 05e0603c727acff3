"""A sampler as a table: one row of coefficients per denoising step.

Every step of every sampler has the form

    x0   = clip(in_x * x + in_out * out)
    prev = x0_scale * x0 + x_scale * x + out_scale * out + last_scale . (last two x0) + sigma * z

with x the trajectory, out the network's output and z fresh noise, so a sampler is a few numbers a
step that are known before the run: DDPM, DDIM, DPM-Solver++ (samplers.py), and the steps of flow
matching (flow.py), x + dt v, or the four calls of a Runge-Kutta step. What a checkpoint names is
what its library does, bit for bit; the tests hold it to diffusers' schedulers. Of what is chosen
here (choosing.py), each step aims at the next timestep of the list, and every spacing but `leading`
starts at the noisiest timestep.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from .config import NEW as NEW
from .config import SamplerConfig as SamplerConfig
from .flow import alpha_bar as flow_alpha_bar
from .noise_schedule import alphas_cumprod as alphas_cumprod
from .samplers import KINDS, Visits, x0_of
from .spacing import timesteps as timesteps


@dataclass(frozen=True)
class SamplerTable:
    """The coefficients of each call of the network, a step, and what time it is shown.

    Coefficients are float32 (N,). Timesteps are int64, the noisiest first; of flow matching float32
    from 0 (noise) to 1.

    `draws[s]` says whether step s consumes noise, which it may do with sigma 0. last_scale, (N, 2),
    is of the x0 of the step before and of the one before that.
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
    last_scale: np.ndarray

    def __len__(self) -> int:
        return len(self.timesteps)

    @cached_property
    def multistep(self) -> bool:
        """Whether some step needs the x0 of earlier ones."""
        return bool(self.last_scale.any())

    def step(
        self, s: int, x: Tensor, out: Tensor, noise: Tensor | None, last: list[Tensor] | None = None
    ) -> Tensor:
        """Trajectory and network output (B, T, D) of step s -> the trajectory of the next.

        Args:
            s: the step.
            x: (B, T, D), the trajectory.
            out: (B, T, D), the network's output for it.
            noise: (B, T, D) where `draws[s]`, None elsewhere.
            last: the x0 of the last steps, newest first, kept here from step to step of a query; a
                new list per query. A multistep sampler needs it.
        """
        x0 = self.in_x[s].item() * x + self.in_out[s].item() * out
        if self.clip is not None:
            x0 = x0.clamp(-self.clip, self.clip)
        prev: Tensor = self.x0_scale[s].item() * x0
        if self.x_scale[s]:
            prev = prev + self.x_scale[s].item() * x
        if self.out_scale[s]:
            prev = prev + self.out_scale[s].item() * out
        if self.multistep:
            if last is None:
                raise TypeError("a multistep sampler's step needs `last`, the x0 of earlier steps")
            for scale, earlier in zip(self.last_scale[s].tolist(), last, strict=False):
                if scale:
                    prev = prev + scale * earlier
            last.insert(0, x0)
            del last[2:]
        return prev if noise is None else prev + self.sigma[s].item() * noise


def sampler_table(config: SamplerConfig) -> SamplerTable:
    """The whole sampler as numbers, in float32.

    Example:
        >>> table = sampler_table(SamplerConfig(steps=5, spacing="trailing"))
        >>> table.timesteps.tolist(), table.draws.tolist()
        ([99, 79, 59, 39, 19], [True, True, True, True, True])
    """
    visits = _visits(config)
    rows = KINDS[config.kind](config, visits)
    in_x, in_out = rows.in_x, rows.in_out
    if in_x is None or in_out is None:
        in_x, in_out = x0_of(config, visits.bar[visits.t])
    numbers = (in_x, in_out, rows.x0_scale, rows.x_scale, rows.out_scale, rows.sigma)
    if not all(np.isfinite(values).all() for values in numbers):
        raise ValueError(
            f"sampler: a step of {config.kind} divides by zero, or is not finite, with "
            f"beta_schedule={config.beta_schedule}, beta_start={config.beta_start} and "
            f"beta_end={config.beta_end}"
        )
    return SamplerTable(
        timesteps=visits.t,
        in_x=in_x,
        in_out=in_out,
        x0_scale=rows.x0_scale,
        x_scale=rows.x_scale,
        out_scale=rows.out_scale,
        sigma=rows.sigma,
        draws=rows.draws,
        clip=config.clip,
        last_scale=np.zeros((len(visits.t), 2)) if rows.last_scale is None else rows.last_scale,
    )


def alpha_bars(config: SamplerConfig) -> np.ndarray:
    """(N,) float32: alpha-bar of the trajectory that each call sees."""
    t = timesteps(config)
    if config.is_flow:
        return flow_alpha_bar(t, config.sigma_min)
    return np.asarray(alphas_cumprod(config)[t])


def _visits(config: SamplerConfig) -> Visits:
    t = timesteps(config)
    if config.is_flow:
        return Visits(alpha_bars(config), t, np.append(t[1:], np.float32(1)))
    quirk = config.kind == "ddim" and not config.is_chosen
    stride = config.num_train_timesteps // config.steps
    before = t - stride if quirk else np.append(t[1:], -1)
    return Visits(alphas_cumprod(config), t, before)
