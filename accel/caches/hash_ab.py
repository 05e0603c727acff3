"""HAS: the schedule of BAC, and forecasts instead of reuse."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..calibration.calibration import Calibration
from ..plans.across import REFRESH
from ..plans.flops import site_costs
from ..plans.plan import CachePlan, PlanError
from ..protocol import Accelerable
from .across import check_across, least_harm, said_of
from .calibrated import ScheduleConfig, schedule
from .forecast import step_derivative, within_trust
from .forecast_rules import RULES, ForecastSettings
from .schedules import finite

log = logging.getLogger(__name__)

SCOPES: dict[str, Callable[[list[int], int], list[int]]] = {
    "bu": lambda chosen, n_sites: chosen,
    "all": lambda chosen, n_sites: list(range(n_sites)),
}


@dataclass
class HashAbConfig(ScheduleConfig):
    """BAC with Adams-Bashforth or another forecast on hits (HAS; AB-Cache, arXiv 2504.10540).

    Every hit's coefficients stand in a table that is looked up by site and step. Differences from
    the reference implementation: its rule for uneven steps is wrong (see `has_compat`), and its
    derivatives are a table that does not depend on the observation (adams_bashforth_offline).

    forecast: reuse, linear, lagrange, adams_bashforth, adams_bashforth_offline, fitted or
        has_compat.
    drift: forecast how a value is away from the calibration's mean at its step, and add the mean of
        the step itself, so that forecasts are exact for the mean. Not from a paper. Without effect
        on adams_bashforth_offline, whose derivatives are of the mean.
    order: of lagrange and Adams-Bashforth, 1 to 4; anchors besides the newest for fitted; anchors
        for has_compat (4 is the reference's). More follows curves better and amplifies noise; it is
        lowered where fewer values are stored.
    scope: bu forecasts in the blocks that are computed on more than S steps (those of the bubbling
        union, or the first layers), all everywhere; other hits are reuse.
    damping: linear, lagrange and adams_bashforth forecast this share of the way from the last
        computed step; less is more careful, 0 is reuse.
    ridge: of fitted; more is closer to reuse.
    trust: bound on the sum of |coefficients|, at least 1; coefficients beyond it are pulled towards
        reuse. Less is more careful, null is no bound. It does not bound an offline derivative.
    across: in later queries of an episode half of the computed FLOPs are not spent: those cells
        where the calibration says that it does least harm hold a fit of their last value and of
        the query before's value, see `least_harm`. Cheaper and less accurate; engine=reference,
        and a calibration with consecutive queries (`accel.with_across`).
    refresh: of across: every so many queries compute all cells; 2 is every other one, 0 only an
        episode's first. More is cheaper and less accurate.
    """

    name: str = "hash_ab"
    forecast: str = "adams_bashforth"
    order: int = 2
    scope: str = "all"
    damping: float = 0.5
    ridge: float = 0.001
    trust: float | None = 3.0
    drift: bool = True
    across: bool = False
    refresh: int = REFRESH

    def __post_init__(self) -> None:
        super().__post_init__()
        self.settings()
        check_across(self)
        if self.scope not in SCOPES:
            raise ValueError(f"cache.scope must be one of {', '.join(SCOPES)}, got {self.scope!r}")

    def settings(self) -> ForecastSettings:
        """What of these the forecast needs, checked."""
        return ForecastSettings(self.forecast, self.order, self.damping, self.ridge, self.trust)


def resolve_hash_ab(
    config: HashAbConfig, policy: Accelerable, calibration: Calibration
) -> CachePlan:
    """The plan."""
    mask, blocks = schedule(config, policy, calibration)
    chosen = SCOPES[config.scope](blocks, len(calibration.sites))
    if not chosen and (config.drift or config.forecast != "reuse"):
        log.warning("cache.scope=bu: no block has more than S update steps, every hit is reuse")
    alpha = coefficients(mask, chosen, config.settings(), calibration)
    bias = offline_bias(mask, chosen, config.settings(), calibration, alpha, config.drift)
    method = (
        f"{config.words} forecast={config.forecast} order={config.order} scope={config.scope} "
        f"drift={config.drift}{said_of(config)}"
    )
    across = None
    if config.across:
        costs = site_costs(policy)
        across, bias = least_harm(mask, costs, calibration, config.refresh, bias, config.drift)
    return CachePlan(
        calibration.sites, mask, calibration.policy, method, alpha, bias, across=across
    )


def coefficients(
    mask: np.ndarray, chosen: list[int], settings: ForecastSettings, calibration: Calibration
) -> np.ndarray | None:
    """Coefficients of every hit, (N, n_sites, n_slots) float64; None if all are reuse."""
    rule = RULES[settings.forecast]
    if rule.uses_gram:
        finite("gram", "", calibration.gram, calibration.sites)
    alpha = np.zeros((*mask.shape, rule.n_anchors(settings)))
    alpha[..., 0] = 1.0
    known: dict[tuple[int | None, tuple[int, ...], int], np.ndarray] = {}
    alike: dict[bytes, int] = {}
    for u in chosen:
        twin = alike.setdefault(mask[:, u].tobytes(), u)
        if twin != u and not rule.uses_gram:  # computed on the same steps
            alpha[:, u] = alpha[:, twin]
            continue
        updates = np.flatnonzero(mask[:, u])
        gram = calibration.gram[u] if rule.uses_gram else None
        for t in np.flatnonzero(~mask[:, u]).tolist():
            anchors = updates[updates < t][::-1][: alpha.shape[2]]
            key = (u if rule.uses_gram else None, tuple(anchors.tolist()), t)
            if key not in known:
                row = rule.alpha(anchors.astype(np.float64), t, settings, gram)
                known[key] = within_trust(row[: len(anchors)], settings.trust)
            alpha[t, u] = 0
            alpha[t, u, : len(known[key])] = known[key]
    used = np.flatnonzero((alpha * ~mask[..., None]).any(axis=(0, 1)))
    alpha = alpha[..., : 1 + int(used.max(initial=0))]
    reuse = alpha.shape[2] == 1 and bool((alpha == 1).all())
    return None if reuse else alpha


def offline_bias(
    mask: np.ndarray,
    chosen: list[int],
    settings: ForecastSettings,
    calibration: Calibration,
    alpha: np.ndarray | None = None,
    drift: bool = False,
) -> np.ndarray | None:
    """(N, n_sites, tokens, width) float32 that hits add besides; None if that is nothing.

    The stored derivatives of rules that have them; with drift, what the forecast `alpha` (None:
    reuse) of the calibration's mean lacks of the mean itself.
    """
    derivative = RULES[settings.forecast].derivative
    if (derivative is None and not drift) or not chosen or mask.all():
        return None
    if calibration.mean.shape[:2] != mask.T.shape:
        raise PlanError(
            f"calibration.mean must be {(*mask.T.shape, 'tokens', 'width')}, "
            f"got {calibration.mean.shape}"
        )
    finite("mean", "", calibration.mean, calibration.sites)
    if derivative is not None:
        log.warning(
            "cache.forecast=%s: the derivatives are means over the calibration and the same for "
            "every observation",
            settings.forecast,
        )
    bias = np.zeros((*mask.shape, *calibration.mean.shape[2:]), dtype=np.float32)
    for u in chosen:
        mean, updates = calibration.mean[u], np.flatnonzero(mask[:, u])
        table = mean if derivative is None else step_derivative(mean)
        for t in np.flatnonzero(~mask[:, u]).tolist():
            anchors = updates[updates < t][::-1]
            if derivative is not None:
                anchors = anchors[: settings.order]
                w = derivative(anchors, float(t), settings.order)[: len(anchors)]
                bias[t, u] = _combined(w, table[anchors])
            else:
                row = np.ones(1) if alpha is None else alpha[t, u]
                anchors = anchors[: len(row)]
                bias[t, u] = mean[t] - _combined(row[: len(anchors)], table[anchors])
    return bias


def _combined(w: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The same bits as np.tensordot(w, values, axes=1), which takes longer than its product."""
    found: np.ndarray = np.dot(w[None], values.reshape(len(w), -1)).reshape(values.shape[1:])
    return found
