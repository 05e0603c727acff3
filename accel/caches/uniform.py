"""One schedule of update steps for all sites, and reuse in between."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..calibration.calibration import Calibration
from ..plans.across import REFRESH
from ..plans.plan import CachePlan
from ..plans.rows import shared_plan
from ..protocol import Accelerable
from .across import check_across, first_half, said_of

log = logging.getLogger(__name__)

EXPONENTS: dict[str, Callable[[UniformConfig], float]] = {
    "even": lambda config: 1.0,
    "quadratic": lambda config: 2.0,
    "power": lambda config: config.power,
}


@dataclass
class UniformConfig:
    """Every branch, or all of a UNet below level 1, computed on the same `steps` denoising steps.

    steps: update steps S, the first and the last step among them; more is slower and closer to the
        plain policy.
    spacing: even, quadratic or power; the latter two compute more often in the last, nearly
        noise-free steps, where features change fastest.
    power: the exponent of spacing=power; more moves the update steps towards the end (1 is even, 2
        is quadratic).
    across: in later queries of an episode the first half of the update steps is not computed: the
        branches add what they added in the query before at the same step. Cheaper and less
        accurate; of transformers, with engine=reference.
    refresh: of across: every so many queries compute all S steps; 2 is every other one, 0 only an
        episode's first. More is cheaper and less accurate.
    """

    name: str = "uniform"
    steps: int = 20
    spacing: str = "quadratic"
    power: float = 3.0
    across: bool = False
    refresh: int = REFRESH

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"cache.steps must be at least 1, got {self.steps}")
        if self.spacing not in EXPONENTS:
            raise ValueError(
                f"cache.spacing must be one of {', '.join(EXPONENTS)}, got {self.spacing!r}"
            )
        if not 1 <= self.power <= 10:
            raise ValueError(f"cache.power must be from 1 to 10, got {self.power}")
        check_across(self)


def update_steps(n_steps: int, budget: int, exponent: float) -> list[int]:
    """`budget` distinct steps of range(n_steps), denser towards the end with a larger exponent.

    Step i is round((N - 1) (1 - (1 - i / (S - 1))^exponent)), moved down where rounding would
    repeat one, so that the budget is met exactly and both ends are update steps (a budget of 1 is
    step 0 alone).
    """
    if budget == 1:
        return [0]
    place = np.arange(budget) / (budget - 1)
    raw = np.round((n_steps - 1) * (1 - (1 - place) ** exponent)).astype(int)
    free = raw - np.arange(budget)  # strictly increasing steps <=> non-decreasing free
    free = np.minimum.accumulate(free[::-1])[::-1]
    return [int(step) for step in free + np.arange(budget)]


def resolve_uniform(
    config: UniformConfig, policy: Accelerable, calibration: Calibration | None = None
) -> CachePlan:
    """Unlike the usual "every p-th step", the last step is an update step, and is counted."""
    n_steps = policy.n_inference_steps
    if config.steps > n_steps:
        log.warning(
            "cache.steps=%d: the sampler has %d steps, all are computed", config.steps, n_steps
        )
    budget = min(config.steps, n_steps)
    steps = update_steps(n_steps, budget, EXPONENTS[config.spacing](config))
    words = f"uniform steps={budget} spacing={config.spacing}{said_of(config)}"
    plan = shared_plan(policy, steps, words)
    if not config.across:
        return plan
    return replace(plan, across=first_half(plan.mask, steps, config.refresh))
