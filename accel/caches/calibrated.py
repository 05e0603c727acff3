"""What calibrated methods share: the settings of a schedule, and the schedule itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import numpy as np

from ..calibration.calibration import Calibration
from ..calibration.statistics import METRICS
from ..plans.flops import site_costs
from ..plans.plan import PlanError
from ..protocol import Accelerable
from .bounds import check_least
from .prefix import early_layers
from .schedules import (
    KINDS,
    adaptive_schedule,
    bubbling_blocks,
    bubbling_union,
    check_gap,
    finite,
    gains_of,
    optimal_schedules,
    share_budget,
)
from .uniform import update_steps

log = logging.getLogger(__name__)

EXPONENT = 2.0  # of layout=prefix: `uniform` with quadratic spacing
LEAST = {"steps": 1, "k": 0, "min_gap": 1, "extra": 0, "caution": 0}
MOST = 100  # cache.extra
# settings that only one layout has
ONLY: dict[str, tuple[str, ...]] = {
    "prefix": ("extra",),
    "block": ("force_last", "metric", "caution", "k", "kinds", "transitive", "min_gap", "budget"),
}


@dataclass
class ScheduleConfig:
    """Update steps from a calibration.

    steps: update steps S; more is slower and closer to the plain policy.
    layout: prefix computes the whole network on S steps, denser at the end, and its first layers on
        further ones that the calibration chooses, see `early_layers`; block is BAC's, a schedule of
        S steps for every block and the bubbling union, which adds to them.
    extra: of layout=prefix, FLOPs of the further steps of the first layers, in those of the S
        steps; 0 is uniform with quadratic spacing.

    Of layout=block:
    force_last: the last, least noisy step is an update step of every block, and one of the S.
    metric: cos, mse, l1 or l2; what of the calibration says how well one step's value serves
        another. cos ignores size.
    caution: standard deviations over queries by which similarity is taken lower than its mean; 1.28
        is about the lowest tenth.
    k: blocks of the bubbling union, which are also computed when a later feed-forward is; more is
        slower and more accurate, 0 is off.
    kinds: which blocks the union may choose, all or ff.
    transitive: unite with united schedules (gives the same here, see `bubbling_union`).
    min_gap: steps from one update to the next, at least; more spreads them out.
    budget: block gives every block S updates; global shares the same FLOPs among blocks by gain.
    """

    name: str = ""
    steps: int = 10
    layout: str = "prefix"
    extra: float = 1.0
    force_last: bool = True
    metric: str = "cos"
    caution: float = 0.0
    k: int = 5
    kinds: str = "all"
    transitive: bool = False
    min_gap: int = 1
    budget: str = "block"

    def __post_init__(self) -> None:
        check_least(self, LEAST)
        if self.extra > MOST:
            raise ValueError(f"cache.extra must be at most {MOST}, got {self.extra}")
        tables: tuple[tuple[str, Iterable[str]], ...] = (
            ("layout", LAYOUTS),
            ("metric", METRICS),
            ("kinds", KINDS),
            ("budget", BUDGETS),
        )
        for setting, allowed in tables:
            if getattr(self, setting) not in allowed:
                raise ValueError(
                    f"cache.{setting} must be one of {', '.join(allowed)}, "
                    f"got {getattr(self, setting)!r}"
                )
        defaults = {field.name: field.default for field in fields(self)}
        for layout, settings in ONLY.items():
            for setting in settings:
                if self.layout != layout and getattr(self, setting) != defaults[setting]:
                    raise ValueError(
                        f"cache.{setting}={getattr(self, setting)} needs cache.layout={layout}, "
                        f"got cache.layout={self.layout}"
                    )

    @property
    def words(self) -> str:
        """The settings of the layout, for people to read."""
        of_layout = " ".join(f"{name}={getattr(self, name)}" for name in ONLY[self.layout])
        return f"{self.name} steps={self.steps} layout={self.layout} {of_layout}"


def same_for_blocks(config: ScheduleConfig, gains: np.ndarray, costs: np.ndarray) -> list[int]:
    """S updates for every block."""
    return [config.steps] * len(gains)


def shared_among_blocks(config: ScheduleConfig, gains: np.ndarray, costs: np.ndarray) -> list[int]:
    """The FLOPs of S updates in every block, given to blocks by gain."""
    n_steps = gains.shape[1]
    check_gap(n_steps, config.steps, config.min_gap)
    values = [optimal_schedules(g, n_steps, config.force_last, config.min_gap).value for g in gains]
    at_least = min(config.steps, 2 if config.force_last else 1)
    return share_budget(values, costs, config.steps, at_least)


BUDGETS: dict[str, Callable[[ScheduleConfig, np.ndarray, np.ndarray], list[int]]] = {
    "block": same_for_blocks,
    "global": shared_among_blocks,
}


def schedule(
    config: ScheduleConfig, policy: Accelerable, calibration: Calibration
) -> tuple[np.ndarray, list[int]]:
    """Cells to compute, (N, n_sites) bool, and the blocks with more than S update steps."""
    n_steps = policy.n_inference_steps
    if config.steps > n_steps:
        log.warning(
            "cache.steps=%d: the sampler has %d steps, all are computed", config.steps, n_steps
        )
    mask, chosen = LAYOUTS[config.layout](config, policy, calibration)
    if config.steps >= n_steps:
        mask = np.ones_like(mask)
    return mask, chosen


def block_layout(
    config: ScheduleConfig, policy: Accelerable, calibration: Calibration
) -> tuple[np.ndarray, list[int]]:
    """BAC: the blocks of the bubbling union are the chosen ones."""
    sites, n_steps = calibration.sites, policy.n_inference_steps
    gains = gains_of(calibration, config.metric, config.caution)
    blocks = bubbling_blocks(sites, calibration.volatility, config.k, config.kinds)
    mask = np.zeros((n_steps, len(sites)), dtype=bool)
    if config.steps >= n_steps:
        return mask, blocks
    counts = BUDGETS[config.budget](config, gains, site_costs(policy))
    for u, count in enumerate(counts):
        mask[adaptive_schedule(gains[u], count, config.force_last, config.min_gap), u] = True
    return bubbling_union(mask, sites, blocks, config.transitive), blocks


def prefix_layout(
    config: ScheduleConfig, policy: Accelerable, calibration: Calibration
) -> tuple[np.ndarray, list[int]]:
    """All layers on S steps in quadratic spacing; the blocks of the first layers are chosen."""
    finite("stream", "", calibration.stream, calibration.sites[:: len(policy.sizes.branches)])
    if not np.isfinite(calibration.sensitivity).all():
        raise PlanError("calibration.sensitivity is not finite")
    n_steps = policy.n_inference_steps
    full = update_steps(n_steps, min(config.steps, n_steps), EXPONENT)
    early = early_layers(calibration.stream, calibration.sensitivity, full, config.extra)
    mask = np.zeros((n_steps, len(calibration.sites)), dtype=bool)
    chosen = early.depth * len(policy.sizes.branches)
    mask[full] = True
    mask[early.steps, :chosen] = True
    return mask, list(range(chosen))


LAYOUTS: dict[
    str,
    Callable[[ScheduleConfig, Accelerable, Calibration], tuple[np.ndarray, list[int]]],
] = {"prefix": prefix_layout, "block": block_layout}
