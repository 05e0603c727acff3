"""TaylorCache: every branch forecast between computed steps, from its own last values."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..calibration import Calibration
from ..forecast import MAX_ORDER, Anchors, lagrange, taylor_compat
from ..plan import CachePlan
from ..protocol import Accelerable
from ..row_plans import last_steps, shared_plan

log = logging.getLogger(__name__)

BASES: dict[str, Callable[[Anchors, float, int], np.ndarray]] = {
    "newton": lagrange,  # Newton's form of the interpolating polynomial is Lagrange's polynomial
    "compat": taylor_compat,
}


@dataclass
class TaylorConfig:
    """Forecasts of every branch before it joins the stream (TaylorSeer, arXiv 2503.06923).

    order: of the polynomial, 1 to 4; more follows curves better and amplifies noise.
    warm_up: first steps, all computed.
    cool_down: last steps, all computed; near the noise-free end features change fastest. null is
        the last tenth.
    interval: steps from one computation to the next; more is faster and less accurate.
    basis: newton interpolates the last order + 1 values, whatever their distances; compat is the
        libraries' recursion, which is exact for straight lines only (see `taylor_compat`).
    """

    name: str = "taylor"
    order: int = 1
    warm_up: int = 3
    cool_down: int | None = None
    interval: int = 10
    basis: str = "newton"

    def __post_init__(self) -> None:
        for setting, least in {"warm_up": 1, "cool_down": 0, "interval": 1}.items():
            value = getattr(self, setting)
            if value is not None and value < least:
                raise ValueError(f"cache.{setting} must be at least {least}, got {value}")
        if not 1 <= self.order <= MAX_ORDER:
            raise ValueError(f"cache.order must be from 1 to {MAX_ORDER}, got {self.order}")
        if self.basis not in BASES:
            raise ValueError(f"cache.basis must be one of {', '.join(BASES)}, got {self.basis!r}")


def resolve_taylor(
    config: TaylorConfig, policy: Accelerable, calibration: Calibration | None = None
) -> CachePlan:
    """The plan; orders are lowered, with a warning, where the query never stores enough values."""
    n_steps = policy.n_inference_steps
    end = last_steps(n_steps, config.cool_down)
    steps = taylor_steps(n_steps, config.warm_up, end, config.interval)
    words = (
        f"taylor order={config.order} warm_up={config.warm_up} end={end} "
        f"interval={config.interval} basis={config.basis}"
    )
    plan = shared_plan(policy, steps, words)
    hits = np.flatnonzero(~plan.mask[:, 0])
    if not len(hits):
        return plan
    alpha = np.zeros((*plan.mask.shape, config.order + 1))
    for t in hits.tolist():
        anchors = [float(s) for s in steps if s < t][::-1]
        alpha[t] = BASES[config.basis](anchors, t, config.order)
    stored = sum(s < hits[-1] for s in steps)
    if stored <= config.order:
        log.warning(
            "cache.order=%d: a hit finds %d stored values at most, so it is %d",
            config.order,
            stored,
            stored - 1,
        )
        alpha = alpha[..., :stored]
    return CachePlan(plan.sites, plan.mask, plan.policy, words, alpha)


def taylor_steps(n_steps: int, warm_up: int, end: int, interval: int) -> list[int]:
    """Computed steps: [0, warm_up), then every `interval`-th after the last of them, [end, N)."""
    return [
        s for s in range(n_steps) if s < warm_up or s >= end or (s - warm_up + 1) % interval == 0
    ]
