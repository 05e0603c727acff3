"""The coefficients of each sampler's steps, in float32 and in diffusers' order of operations.

1 - a / a_prev loses three digits in float32; rounding it otherwise moves actions by 1e-5. Where the
list is chosen here and diffusers' bits are no reason, DPM-Solver++ and a stochastic DDIM are
computed in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .flow import grid

if TYPE_CHECKING:
    from .config import SamplerConfig

ORDERS = (1, 2, 3)


@dataclass(frozen=True)
class Visits:
    """What a sampler visits.

    Attributes:
        bar: (num_train_timesteps,) float32, alpha-bar of the training; of flow matching (n,), that
            of each call.
        t: (n,) int64, the timesteps, the noisiest first; of flow matching float32, from 0 to 1.
        before: (n,) int64, the timestep that each step aims at; below 0: clean data. Of flow
            matching that is known by its grid.
    """

    bar: np.ndarray
    t: np.ndarray
    before: np.ndarray


@dataclass(frozen=True)
class Rows:
    """Columns of the table, float32 (n,); see `SamplerTable`. last_scale: (n, 2).

    in_x, in_out: None: what makes clean actions of what the network predicts.
    """

    x0_scale: np.ndarray
    x_scale: np.ndarray
    out_scale: np.ndarray
    sigma: np.ndarray
    draws: np.ndarray
    last_scale: np.ndarray | None = None
    in_x: np.ndarray | None = None
    in_out: np.ndarray | None = None


def x0_of(config: SamplerConfig, bar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What of x and of the network's output the predicted clean trajectory is made of."""
    one, zero = np.float32(1), np.zeros_like(bar)
    with np.errstate(divide="ignore", invalid="ignore"):  # alpha-bar is 0 with zero terminal SNR
        return {
            "epsilon": (1 / np.sqrt(bar), -np.sqrt(one - bar) / np.sqrt(bar)),
            "sample": (zero, zero + 1),
            "v_prediction": (np.sqrt(bar), -np.sqrt(one - bar)),
        }[config.prediction_type]


def _around(
    config: SamplerConfig, visits: Visits, final: np.float32
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """alpha-bar of each step and of what it aims at, 1 minus them, and the posterior variance."""
    one = np.float32(1)
    a = visits.bar[visits.t]
    a_prev = np.where(visits.before >= 0, visits.bar[visits.before.clip(0)], final)
    b, b_prev = one - a, one - a_prev
    return a, a_prev, b, b_prev, b_prev / b * (one - a / a_prev)


def ddpm(config: SamplerConfig, visits: Visits) -> Rows:
    """Ho et al. 2020, equations 6, 7 and 15."""
    one = np.float32(1)
    a, a_prev, b, b_prev, posterior = _around(config, visits, one)
    step_alpha = a / a_prev
    step_beta = one - step_alpha
    draws = visits.t > 0
    variance = step_beta if config.variance_type == "fixed_large" else posterior.clip(1e-20)
    sigma = np.where(draws, np.sqrt(variance), np.zeros_like(a))
    if config.is_chosen:
        sigma[-1] = 0  # clean data has no noise, wherever the list ends
    return Rows(
        np.sqrt(a_prev) * step_beta / b,
        np.sqrt(step_alpha) * b_prev / b,
        np.zeros_like(a),
        sigma,
        draws,
    )


def ddim(config: SamplerConfig, visits: Visits) -> Rows:
    """Song et al. 2021, equations 12 and 16."""
    one = np.float32(1)
    final = one if config.set_alpha_to_one or config.is_chosen else visits.bar[0]
    if config.is_chosen and config.eta:  # b_prev - sigma^2 cancels where eta is near 1
        visits = replace(visits, bar=visits.bar.astype(np.float64))
    a, a_prev, b, b_prev, posterior = _around(config, visits, final)
    zero = np.zeros_like(a)
    sigma = config.eta * np.sqrt(posterior.clip(0))
    if config.is_chosen:
        sigma[-1] = 0
    direction = np.sqrt((b_prev - sigma**2).clip(0))
    by_x0, by_x, by_out = {  # the predicted noise, as a combination of x0, x and the output
        "clipped": (-np.sqrt(a) / np.sqrt(b), 1 / np.sqrt(b), zero),
        "epsilon": (zero, zero, zero + 1),
        "sample": (zero, 1 / np.sqrt(b), -np.sqrt(a) / np.sqrt(b)),
        "v_prediction": (zero, np.sqrt(b), np.sqrt(a)),
    }["clipped" if config.use_clipped_model_output else config.prediction_type]
    draws = np.full(len(a), config.eta > 0)
    x0_scale = np.sqrt(a_prev) + direction * by_x0
    return Rows(
        x0_scale.astype(np.float32),
        (direction * by_x).astype(np.float32),
        (direction * by_out).astype(np.float32),
        sigma.astype(np.float32),
        draws,
    )


def dpmpp(config: SamplerConfig, visits: Visits) -> Rows:
    """DPM-Solver++ multistep with the midpoint rule (Lu et al. 2022, arXiv 2211.01095).

    Equations 9 and 13 of the ODE form and, where `stochastic`, of the SDE form in their appendix.
    It warms up with lower orders, ends with the first one at clean data, and with fewer than 15
    steps has the second one before that, as diffusers' `lower_order_final` does. The third order of
    the SDE form is diffusers' own; its last weight does not vanish with the step, so expect no more
    of it than of the second order.
    """
    a = visits.bar[visits.t].astype(np.float64)
    alpha, std = np.append(np.sqrt(a), 1.0), np.append(np.sqrt(1 - a), 0.0)
    with np.errstate(divide="ignore"):
        lam = np.log(alpha) - np.log(std)
    n = len(a)
    x0, last = np.zeros(n), np.zeros((n, 2))
    x_scale, sigma = np.zeros(n), np.zeros(n)
    for i in range(n):
        h = lam[i + 1] - lam[i]
        faded = np.exp(-2 * h) if config.stochastic else np.exp(-h)
        x_scale[i] = std[i + 1] / std[i] * (np.exp(-h) if config.stochastic else 1.0)
        sigma[i] = std[i + 1] * np.sqrt(1 - faded) if config.stochastic else 0.0
        weights = _extrapolated(lam, i, min(config.order, i + 1, _most(i, n)), h, config.stochastic)
        x0[i], last[i] = alpha[i + 1] * weights[0], alpha[i + 1] * weights[1:]
    return Rows(
        x0.astype(np.float32),
        x_scale.astype(np.float32),
        np.zeros(n, np.float32),
        sigma.astype(np.float32),
        np.full(n, config.stochastic),
        last.astype(np.float32),
    )


def _most(i: int, n: int) -> int:
    """The highest order that step i of n may have."""
    left = n - 1 - i
    return 1 if left == 0 else 2 if left == 1 and n < 15 else 3


def _extrapolated(lam: np.ndarray, i: int, order: int, h: float, stochastic: bool) -> np.ndarray:
    """Weights (3,) of this x0 and the last two, over the alpha of what the step aims at."""
    z = 2 * h if stochastic else h
    whole = -np.expm1(-z)  # 1 - e^-z
    weights = np.array([whole, 0.0, 0.0])
    if order == 1:
        return weights
    r0 = (lam[i] - lam[i - 1]) / h
    first = np.array([1.0, -1.0, 0.0]) / r0  # divided differences of x0 over log-SNR
    if order == 2:
        return np.asarray(weights + whole / 2 * first)
    r1 = (lam[i - 1] - lam[i - 2]) / h
    second = np.array([0.0, 1.0, -1.0]) / r1
    slope = first + r0 / (r0 + r1) * (first - second)
    bend = (first - second) / (r0 + r1)
    half = -0.5 if stochastic else 0.5
    return np.asarray(weights + (1 - whole / z) * slope + ((whole - z) / z**2 + half) * bend)


def _flowing(t: np.ndarray, out_scale: np.ndarray, **more: np.ndarray) -> Rows:
    """What the samplers of flow matching have in common: no noise, and x goes on."""
    zero = np.zeros_like(t)
    columns = {"x_scale": zero + 1, "in_x": zero + 1, "in_out": zero, **more}
    return Rows(
        x0_scale=zero,
        out_scale=out_scale.astype(np.float32),
        sigma=zero,
        draws=np.zeros(len(t), bool),
        **columns,
    )


def euler(config: SamplerConfig, visits: Visits) -> Rows:
    """X + dt v; the clean actions that it takes for granted are x + (1 - t) v without sigma_min."""
    kept = np.float32(1 - config.sigma_min)
    clean = {"in_x": np.full_like(visits.t, kept), "in_out": 1 - kept * visits.t}
    return _flowing(visits.t, np.diff(grid(config)), **clean)


def rk4(config: SamplerConfig, visits: Visits) -> Rows:
    """Runge and Kutta's method of fourth order, a row for each of the four calls of a step.

    With x the trajectory, k its velocities and x2, x3, x4 what the second to fourth call see:
    x2 = x + dt/2 k1, x3 = x + dt/2 k2, x4 = x + dt k3, and at last
    x + dt/6 (k1 + 2 k2 + 2 k3 + k4) = (x2 + dt/2 k2 + x3 + x4) / 3 + dt/6 k4, which needs no more
    of the earlier calls than the two values that the table remembers, x of the first call,
    x2 + dt/2 k2 of the second and x3 of the third.
    """
    dt, third = np.diff(grid(config)).astype(np.float64), 1 / 3
    n = len(dt)
    return _flowing(
        visits.t,
        (dt[:, None] * np.array([1 / 2, 1 / 2, 1, 1 / 6])).ravel(),
        x_scale=np.tile([1.0, 0.0, 0.0, third], n).astype(np.float32),
        in_out=(dt[:, None] * np.array([0, 1 / 2, 0, 0])).astype(np.float32).ravel(),
        last_scale=np.tile([[0, 0], [1, 0], [0, 1], [third, third]], (n, 1)).astype(np.float32),
    )


KINDS: dict[str, Callable[[SamplerConfig, Visits], Rows]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "dpmpp": dpmpp,
    "euler": euler,
    "rk4": rk4,
}
"""The table of samplers: name -> a function from settings and visits to rows; plug-ins add to it.

`policies.sampling` shows it as `SAMPLERS`, the same object.
"""
