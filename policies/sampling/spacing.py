"""Which of the training's timesteps a sampler visits, the noisiest first.

LIBRARY holds the lists of diffusers' schedulers (Lin et al. 2023, table 2), bit for bit. CHOSEN
holds ours: each but `leading` starts at the noisiest timestep, N - 1, and each has as many
different timesteps as it was asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .flow import times

if TYPE_CHECKING:
    from .config import SamplerConfig

List = Callable[["SamplerConfig"], np.ndarray]

LIBRARY: dict[str, List] = {
    "leading": lambda c: (
        np.arange(c.steps)[::-1] * (c.num_train_timesteps // c.steps) + c.steps_offset
    ),
    "linspace": lambda c: np.linspace(0, c.num_train_timesteps - 1, c.steps).round()[::-1],
    "trailing": lambda c: (
        np.round(np.arange(c.num_train_timesteps, 0, -c.num_train_timesteps / c.steps)) - 1
    ),
}


def _trailing(c: SamplerConfig) -> np.ndarray:
    """N - 1, N - 1 - N / n, ...: evenly spaced, and as far from 0 as from each other."""
    n = c.num_train_timesteps
    return np.asarray(np.round(n - np.arange(c.steps) * (n / c.steps)) - 1)


def _curve(exponent: float) -> List:
    """round((N - 1) u^exponent) for u = 1 ... 0: the larger the exponent, the denser near 0."""

    def of(c: SamplerConfig) -> np.ndarray:
        place = np.linspace(1, 0, c.steps) if c.steps > 1 else np.ones(1)
        return np.asarray(np.round((c.num_train_timesteps - 1) * place**exponent))

    return of


CHOSEN: dict[str, List] = {
    "leading": LIBRARY["leading"],
    "trailing": _trailing,
    "linspace": _curve(1.0),
    "even": _curve(1.0),
    "quadratic": _curve(2.0),
    "power": lambda c: _curve(c.power)(c),
}
"""`even` and `linspace` are two names of one list, which visits both ends. `leading` is the
library's: its first timestep is below N - 1 where n does not divide N."""


def distinct(t: np.ndarray) -> np.ndarray:
    """Timesteps that rounding made equal, moved up until all differ.

    Example:
        >>> distinct(np.array([9, 2, 1, 1, 0, 0])).tolist()
        [9, 4, 3, 2, 1, 0]
    """
    place = np.arange(len(t))
    return np.asarray(np.maximum.accumulate((t + place)[::-1])[::-1] - place)


def timesteps(config: SamplerConfig) -> np.ndarray:
    """(n,) int64, the noisiest first; of flow matching float32, the time of each call, see flow."""
    if config.is_flow:
        return times(config)
    if config.timesteps is not None:
        return np.array(config.timesteps, dtype=np.int64)
    if config.spacing is None:
        return LIBRARY[config.timestep_spacing](config).astype(np.int64)
    return distinct(CHOSEN[config.spacing](config).astype(np.int64))
