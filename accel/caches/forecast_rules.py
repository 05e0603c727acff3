"""Forecast rules by name: what a hit adds, from the formulas in forecast.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .forecast import (
    MAX_ORDER,
    Anchors,
    adams_bashforth,
    adams_bashforth_online,
    fitted,
    has_compat,
    lagrange,
    linear,
    with_differences,
)

IMPLICIT = ("abm", "bdf")


@dataclass(frozen=True)
class ForecastSettings:
    """Settings of a rule; `HashAbConfig` says what each is for.

    Raises:
        ValueError: a setting is unknown or out of its range; the message names it.
    """

    forecast: str = "adams_bashforth"
    order: int = 2
    damping: float = 1.0
    ridge: float = 0.001
    trust: float | None = 3.0

    def __post_init__(self) -> None:
        if self.forecast in IMPLICIT:
            raise ValueError(
                f"cache.forecast={self.forecast} is not offered: it is implicit and needs the "
                "derivative at the very step that a hit does not compute; "
                f"use one of {', '.join(RULES)}"
            )
        if self.forecast not in RULES:
            raise ValueError(
                f"cache.forecast must be one of {', '.join(RULES)}, got {self.forecast!r}"
            )
        if not 1 <= self.order <= MAX_ORDER:
            raise ValueError(f"cache.order must be from 1 to {MAX_ORDER}, got {self.order}")
        if not 0 <= self.damping <= 1:
            raise ValueError(f"cache.damping must be from 0 to 1, got {self.damping}")
        if not 0 <= self.ridge < float("inf"):
            raise ValueError(f"cache.ridge must be at least 0 and finite, got {self.ridge}")
        if self.trust is not None and not 1 <= self.trust < float("inf"):
            raise ValueError(f"cache.trust must be at least 1, or null, got {self.trust}")


@dataclass(frozen=True)
class Rule:
    """A way to make coefficients.

    Attributes:
        n_anchors: stored values that a forecast combines at most.
        alpha: (anchors, t, settings, gram) -> coefficients, one or more and at most n_anchors;
            their sum is 1. gram is (N, N), the mean inner products of the site's values.
        uses_gram: whether `alpha` reads gram.
        derivative: (anchors, t, order) -> weights of the mean derivatives that the calibration
            holds for the anchors' steps, added to the forecast; None for most.
    """

    n_anchors: Callable[[ForecastSettings], int]
    alpha: Callable[[np.ndarray, float, ForecastSettings, np.ndarray | None], np.ndarray]
    uses_gram: bool = False
    derivative: Callable[[Anchors, float, int], np.ndarray] | None = None


def _target(anchors: np.ndarray, t: float, s: ForecastSettings) -> float:
    return float(anchors[0] + s.damping * (t - anchors[0]))


def _compat_online(
    anchors: np.ndarray, t: float, s: ForecastSettings, gram: np.ndarray | None
) -> np.ndarray:
    if len(anchors) == 1:
        return np.ones(1)
    return with_differences(anchors[: s.order + 1], *has_compat(anchors[: s.order], t))


def _fitted(
    anchors: np.ndarray, t: float, s: ForecastSettings, gram: np.ndarray | None
) -> np.ndarray:
    assert gram is not None
    return fitted(gram, anchors, t, s.order, s.ridge)


RULES: dict[str, Rule] = {
    "reuse": Rule(lambda s: 1, lambda anchors, t, s, gram: np.ones(1)),
    "linear": Rule(
        lambda s: 2,
        lambda anchors, t, s, gram: linear(anchors, t, s.damping),
    ),
    "lagrange": Rule(
        lambda s: s.order + 1,
        lambda anchors, t, s, gram: lagrange(anchors, _target(anchors, t, s), s.order),
    ),
    "adams_bashforth": Rule(
        lambda s: s.order + 1,
        lambda anchors, t, s, gram: adams_bashforth_online(
            anchors, _target(anchors, t, s), s.order
        ),
    ),
    "adams_bashforth_offline": Rule(  # degree `order` of the mean value, see `derivative`
        lambda s: 1,
        lambda anchors, t, s, gram: np.ones(1),
        derivative=adams_bashforth,
    ),
    "fitted": Rule(lambda s: s.order + 1, _fitted, uses_gram=True),
    "has_compat": Rule(lambda s: s.order + 1, _compat_online),
}
