"""From our normaliser to LeRobot's modes and statistics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..data.modes import EPS, span
from ..data.normalizer import Normalizer
from .features import Features
from .normalization import SINCE_0_4, Statistics

MOST_ERROR = 1e-5  # in normalised units


def written_normalizer(
    normalizer: Normalizer, features: Features, split: int | None
) -> tuple[dict[str, str], Statistics]:
    """LeRobot's mode of each kind of feature, and the statistics of each by its own name.

    Args:
        normalizer: of the policy.
        features: that it has as LeRobot's.
        split: see `said_by`: both parts are normalised as the whole, number by number.

    Raises:
        ValueError: a map that LeRobot's modes cannot say.
    """
    kinds: dict[str, str] = {}
    statistics: Statistics = {}
    begin = 0
    for feature in (*features.seen, features.action):
        whole = split is not None and feature is not features.action
        mode, found = _said(normalizer, "obs" if whole else feature.ours)
        if whole:
            found = {k: v[begin : begin + feature.shape[0]] for k, v in found.items()}
            begin += feature.shape[0]
        name = {ours: theirs for theirs, ours in SINCE_0_4.items()}[mode]
        if kinds.setdefault(feature.kind, name) != name:
            raise ValueError(
                f"LeRobot normalises all images in one way, got {kinds[feature.kind]} and {name} "
                f"of {feature.ours}"
            )
        statistics[feature.theirs] = found
    return kinds, statistics


def _said(normalizer: Normalizer, field: str) -> tuple[str, dict[str, Tensor]]:
    """A mode of `SINCE_0_4`, and its statistics."""
    params: Any = normalizer.params(field)
    mode = normalizer.modes.get(field)
    if mode is None:
        return "min_max", _ends(field, params["scale"], params["offset"])
    found = {name: value.detach().cpu().clone() for name, value in params.items()}
    if mode == "min_max_eps":
        _check_same_as_later(field, found["min"], found["max"])
        mode = "min_max"
    return mode, found


def _ends(field: str, scale: Tensor, offset: Tensor) -> dict[str, Tensor]:
    """The numbers that an affine map brings to -1 and 1."""
    s, o = scale.detach().cpu().double(), offset.detach().cpu().double()
    ends = {"min": ((-1 - o) / s).float(), "max": ((1 - o) / s).float()}
    low, wide = ends["min"].double(), (ends["max"] - ends["min"]).double()
    again = (2 / wide, -1 - 2 * low / wide)
    error = (again[0] / s - 1).abs().maximum((again[1] - o).abs())
    if not bool((error <= MOST_ERROR).all()):
        first = int((~(error <= MOST_ERROR)).flatten().nonzero()[0])
        raise ValueError(
            f"{field}: number {first} is normalised by scale {float(s.flatten()[first]):g} and "
            f"offset {float(o.flatten()[first]):g}, which LeRobot cannot say in float32"
        )
    return ends


def _check_same_as_later(field: str, low: Tensor, high: Tensor) -> None:
    """LeRobot 0.3 adds EPS to every range, later ones to empty ranges only."""
    if not torch.equal(high - low + EPS, span(low, high)):
        raise ValueError(
            f"{field} is normalised as LeRobot 0.3 does (min_max_eps) with ranges so small that "
            "0.4 would compute other numbers"
        )
