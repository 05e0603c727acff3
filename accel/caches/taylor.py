"""TaylorCache: every branch forecast between computed steps, from its own last values."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..calibration.calibration import Calibration
from ..families import family_of
from ..plans.bands import Bands, low_bins
from ..plans.plan import CachePlan, PlanError
from ..plans.rows import last_steps, shared_plan
from ..protocol import Accelerable
from .bounds import check_least
from .forecast import MAX_ORDER, Anchors, lagrange, taylor_compat

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
    low_order, high_order: of the bands of a branch along its tokens, the low one up to a tenth of
        the highest frequency; null is `order`, 0 reuses. Different ones need engine=reference.
    basis: newton interpolates the last order + 1 values, whatever their distances; compat is the
        libraries' recursion, which is exact for straight lines only (see `taylor_compat`).
    """

    name: str = "taylor"
    order: int = 1
    low_order: int | None = None
    high_order: int | None = None
    warm_up: int = 3
    cool_down: int | None = None
    interval: int = 10
    basis: str = "newton"

    def __post_init__(self) -> None:
        check_least(self, {"warm_up": 1, "cool_down": 0, "interval": 1})
        for name, least in {"order": 1, "low_order": 0, "high_order": 0}.items():
            order = getattr(self, name)
            if order is not None and not least <= order <= MAX_ORDER:
                raise ValueError(f"cache.{name} must be from {least} to {MAX_ORDER}, got {order}")
        if self.basis not in BASES:
            raise ValueError(f"cache.basis must be one of {', '.join(BASES)}, got {self.basis!r}")


def taylor_identity(config: TaylorConfig, policy: Accelerable) -> dict[str, Any]:
    """Without bands where there are none: runs from before there were any stay the same runs."""
    unset = {name for name in ("low_order", "high_order") if getattr(config, name) is None}
    return {key: value for key, value in asdict(config).items() if key not in unset}


def resolve_taylor(
    config: TaylorConfig, policy: Accelerable, calibration: Calibration | None = None
) -> CachePlan:
    """The plan; orders are lowered, with a warning, where the query never stores enough values.

    Bands of equal orders are no bands: the split is linear.

    Raises:
        PlanError: bands of something else than branches.
    """
    high = config.order if config.high_order is None else config.high_order
    low = config.order if config.low_order is None else config.low_order
    if low != high:
        _check_bands(policy)
    n_steps = policy.n_inference_steps
    end = last_steps(n_steps, config.cool_down)
    steps = taylor_steps(n_steps, config.warm_up, end, config.interval)
    words = (
        f"taylor order={_words(low, high)} warm_up={config.warm_up} end={end} "
        f"interval={config.interval} basis={config.basis}"
    )
    plan = shared_plan(policy, steps, words)
    hits = np.flatnonzero(~plan.mask[:, 0])
    if not len(hits):
        return plan
    stored, most = sum(s < hits[-1] for s in steps), max(low, high)
    if stored <= most:
        log.warning(
            "cache.order=%d: a hit finds %d stored values at most, so it is %d",
            most,
            stored,
            stored - 1,
        )
    alphas = np.zeros((2, *plan.mask.shape, most + 1))
    for t in hits.tolist():
        anchors = [float(s) for s in steps if s < t][::-1]
        for alpha, order in zip(alphas, (high, low), strict=True):
            alpha[t, :, : order + 1] = BASES[config.basis](anchors, t, order)
    of_high, of_low = alphas[..., :stored]
    bands = Bands(of_low - of_high) if low != high else None
    return CachePlan(plan.sites, plan.mask, plan.policy, words, of_high, bands=bands)


def _words(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} (low) {high} (high)"


def _check_bands(policy: Accelerable) -> None:
    """Refuse what has no tokens that all engines know; say where a band is degenerate."""
    if not family_of(policy).tokens:
        raise PlanError(
            "cache.low_order and cache.high_order need a policy's transformer, got "
            f"{policy.sizes.family}: set cache.order"
        )
    if policy.sizes.family == "blocks":
        return  # another model's tokens are seen when it runs
    tokens = policy.n_live + policy.sizes.encoder_only
    if low_bins(tokens) < 2:
        log.warning(
            "cache.low_order: of %d tokens the low band is their mean alone (two frequencies need "
            "20 tokens)",
            tokens,
        )


def taylor_steps(n_steps: int, warm_up: int, end: int, interval: int) -> list[int]:
    """Computed steps: [0, warm_up), then every `interval`-th after the last of them, [end, N)."""
    return [
        s for s in range(n_steps) if s < warm_up or s >= end or (s - warm_up + 1) % interval == 0
    ]
