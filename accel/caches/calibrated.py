"""What calibrated methods share: the settings of a schedule, and the schedule itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..calibration import METRICS, Calibration
from ..flops import site_costs
from ..plan import PlanError
from ..protocol import Accelerable
from ..schedules import (
    KINDS,
    adaptive_schedule,
    bubbling_blocks,
    bubbling_union,
    check_gap,
    gains_of,
    optimal_schedules,
    share_budget,
)

log = logging.getLogger(__name__)


@dataclass
class ScheduleConfig:
    """A schedule of update steps for every block.

    steps: update steps S of a block, the last step among them with force_last; more is slower and
        closer to the plain policy. The bubbling union adds to it.
    metric: cos, mse, l1 or l2; what of the calibration says how well one step's value serves
        another. cos ignores size.
    k: blocks of the bubbling union, which are also computed when a later feed-forward is; more is
        slower and more accurate, 0 is off.
    kinds: which blocks the union may choose, all or ff.
    transitive: unite with united schedules (gives the same here, see `bubbling_union`).
    force_last: the last, least noisy step is an update step of every block, and one of the S.
    min_gap: steps from one update to the next, at least; more spreads them out.
    budget: block gives every block S updates; global shares the same FLOPs among blocks by gain.
    step_weight: exponent p of ((t + 1) / N)^p, by which the gain of step t counts; more puts
        updates late, where an error is not corrected any more. 0 is BAC's.
    shared: one schedule for all blocks, from the mean of their gains by FLOPs; whole steps are
        then reused, which is faster than the same FLOPs in scattered cells. BAC has it off.
    """

    name: str = ""
    steps: int = 10
    metric: str = "cos"
    k: int = 5
    kinds: str = "all"
    transitive: bool = False
    force_last: bool = True
    min_gap: int = 1
    budget: str = "block"
    step_weight: float = 0.0
    shared: bool = False

    def __post_init__(self) -> None:
        for setting, least in (("steps", 1), ("k", 0), ("min_gap", 1), ("step_weight", 0)):
            if not getattr(self, setting) >= least:
                raise ValueError(
                    f"cache.{setting} must be at least {least}, got {getattr(self, setting)}"
                )
        for setting, allowed in (("metric", METRICS), ("kinds", KINDS), ("budget", BUDGETS)):
            if getattr(self, setting) not in allowed:
                raise ValueError(
                    f"cache.{setting} must be one of {', '.join(allowed)}, "
                    f"got {getattr(self, setting)!r}"
                )
        if self.shared and self.budget != "block":
            raise ValueError(
                f"cache.budget must be block with cache.shared=true, got {self.budget!r}"
            )


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


def check_calibration(
    calibration: Calibration | None, policy: Accelerable, method: str
) -> Calibration:
    """The calibration, if it was made for this policy and sampler.

    Raises:
        PlanError: there is none, or it is foreign.
    """
    if calibration is None:
        raise PlanError(
            f"cache={method} needs a calibration of this checkpoint and sampler: make one with "
            "`python run.py runner=calibrate` or accel.calibrate(policy, ...) and pass it as "
            "`calibration`"
        )
    calibration.check(policy)
    return calibration


def schedule(
    config: ScheduleConfig, policy: Accelerable, calibration: Calibration
) -> tuple[np.ndarray, list[int]]:
    """Cells to compute, (N, n_sites) bool, and the blocks that the bubbling union chose."""
    sites, n_steps = calibration.sites, policy.n_inference_steps
    gains = gains_of(calibration, config.metric)
    gains = gains * (np.arange(1, n_steps + 1) / n_steps) ** config.step_weight
    if config.shared:
        mean = np.average(gains, axis=0, weights=site_costs(policy))
        gains = np.broadcast_to(mean, gains.shape)
    blocks = bubbling_blocks(sites, calibration.volatility, config.k, config.kinds)
    if config.steps >= n_steps:
        if config.steps > n_steps:
            log.warning(
                "cache.steps=%d: the sampler has %d steps, all are computed", config.steps, n_steps
            )
        return np.ones((n_steps, len(sites)), dtype=bool), blocks
    mask = np.zeros((n_steps, len(sites)), dtype=bool)
    counts = BUDGETS[config.budget](config, gains, site_costs(policy))
    for u, count in enumerate(counts):
        mask[adaptive_schedule(gains[u], count, config.force_last, config.min_gap), u] = True
    return bubbling_union(mask, sites, blocks, config.transitive), blocks
