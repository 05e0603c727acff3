"""Normalising by statistics of the training data, in the ways of LeRobot, bit for bit.

An affine map rewritten as scale and offset cancels where a number never moves (max == min): x - min
is exact there, and is divided by 1e-8. So each way keeps the statistics, and computes as LeRobot's
processor does from 0.4 on (`min_max_eps`: as the policies of 0.3 did).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

EPS = 1e-8

Statistics = Any
"""{name: tensor}, or a `ParameterDict` of that, which is no `Mapping`."""
Map = Callable[[Tensor, Statistics], Tensor]


@dataclass(frozen=True)
class Mode:
    """A way to normalise.

    Attributes:
        statistics: names of what it needs.
        normalize: values in the units of the env, statistics -> normalised values.
        unnormalize: back; with EPS in it a way and its way back are not quite inverse.
    """

    statistics: tuple[str, ...]
    normalize: Map
    unnormalize: Map


def span(low: Tensor, high: Tensor) -> Tensor:
    """The difference, and EPS where that is 0."""
    width = high - low
    return torch.where(width == 0, torch.full_like(width, EPS), width)


def _between(low: str, high: str) -> Mode:
    """[low, high] to [-1, 1]."""

    def normalize(x: Tensor, s: Statistics) -> Tensor:
        out: Tensor = 2 * (x - s[low]) / span(s[low], s[high]) - 1
        return out

    def unnormalize(x: Tensor, s: Statistics) -> Tensor:
        out: Tensor = (x + 1) * span(s[low], s[high]) / 2 + s[low]
        return out

    return Mode((low, high), normalize, unnormalize)


MODES: dict[str, Mode] = {
    "identity": Mode((), lambda x, s: x, lambda x, s: x),
    "mean_std": Mode(
        ("mean", "std"),
        lambda x, s: (x - s["mean"]) / (s["std"] + EPS),
        lambda x, s: x * s["std"] + s["mean"],
    ),
    "min_max": Mode(
        ("min", "max"),
        _between("min", "max").normalize,
        lambda x, s: (x + 1) / 2 * span(s["min"], s["max"]) + s["min"],
    ),
    "min_max_eps": Mode(
        ("min", "max"),
        lambda x, s: (x - s["min"]) / (s["max"] - s["min"] + EPS) * 2 - 1,
        lambda x, s: (x + 1) / 2 * (s["max"] - s["min"]) + s["min"],
    ),
    "quantiles": _between("q01", "q99"),
    "quantile10": _between("q10", "q90"),
}
"""By name, as `PolicyConfig.normalization` says it."""


def check_modes(modes: Mapping[str, str], fields: tuple[str, ...] | None = None) -> None:
    """Refuse names that are none of `MODES`, and fields that are none of `fields`.

    Raises:
        ValueError: one line with the setting.
    """
    for field, mode in modes.items():
        if fields is not None and field not in fields:
            raise ValueError(f"normalization must be of {', '.join(fields)}, got {field!r}")
        if mode not in MODES:
            raise ValueError(
                f"normalization.{field} must be one of {', '.join(MODES)}, got {mode!r}"
            )
