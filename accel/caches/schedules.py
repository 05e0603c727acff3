"""Where to compute: update steps per block from a calibration (BAC, arXiv 2506.13456)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..calibration.calibration import Calibration
from ..calibration.statistics import METRICS
from ..plans.plan import PlanError
from ..plans.sites import Site

log = logging.getLogger(__name__)


def gains_of(calibration: Calibration, metric: str, caution: float = 0.0) -> np.ndarray:
    """(n_sites, N, N): gain of reusing step i's value in step j, 0 at best.

    cos - 1 or -distance. BAC adds up plain cosines, which are not 0 where nothing is reused: its
    optimum falls as the budget grows, and budgets of two blocks cannot be compared.

    Args:
        calibration: finite, PlanError otherwise.
        metric: one that the calibration holds.
        caution: standard deviations over queries by which every value is taken worse than its mean;
            1.28 is the lowest tenth of queries if they are normally distributed.
    """
    if metric not in calibration.similarity:
        raise PlanError(
            f"cache.metric must be one of {', '.join(calibration.similarity)} (what the "
            f"calibration holds; of {', '.join(METRICS)}), got {metric!r}"
        )
    values = np.asarray(calibration.similarity[metric], dtype=np.float64)
    finite("similarity", metric, values, calibration.sites)
    spread = caution * np.asarray(calibration.spread[metric]) if caution else 0.0
    gains = np.minimum(values - 1 if metric == "cos" else -values, 0) - spread
    diagonal = np.arange(gains.shape[1])
    gains[:, diagonal, diagonal] = 0
    return np.asarray(gains)


def finite(field: str, detail: str, values: np.ndarray, sites: Sequence[Site]) -> None:
    """Refuse NaN and infinity in (n_sites, ...) values, naming the block."""
    good = np.isfinite(values).reshape(len(sites), -1).all(axis=1)
    if not good.all():
        name = f"{field}[{detail}]" if detail else field
        raise PlanError(f"calibration.{name} of {sites[int(np.argmin(good))].name} is not finite")


@dataclass(frozen=True)
class Optima:
    """The best schedules of one block for every number of updates.

    Attributes:
        value: (n,) total gain of the best schedule with 1, 2, ... updates; -inf if there is none.
        last: (n,) its last update step.
        previous: (n, N) [k, e]: the update step before e, if e is update k (from 0).
    """

    value: np.ndarray
    last: np.ndarray
    previous: np.ndarray

    def steps(self, n_updates: int) -> list[int]:
        """The best schedule with this many updates, ascending."""
        found = [int(self.last[n_updates - 1])]
        for k in range(n_updates - 1, 0, -1):
            found.append(int(self.previous[k, found[-1]]))
        return found[::-1]


def optimal_schedules(
    gains: np.ndarray, n_updates: int, force_last: bool = False, min_gap: int = 1
) -> Optima:
    """Adaptive Caching Scheduler (BAC, section 4.2), for 1 to n_updates updates at once.

    A schedule is worth the sum of gains[a, t] over its steps t, a the update step that t reuses.
    Differences: `force_last` makes step N - 1 one of the updates (not one more; a single update is
    step 0 all the same), and update steps are at least `min_gap` apart. Ties go to the earlier
    step. O(n_updates N^2).

    Args:
        gains: (N, N), at most 0, 0 on the diagonal.
        n_updates: at most N.
        force_last: see above.
        min_gap: see above.
    """
    n = len(gains)
    reach = np.zeros((n, n + 1))  # [a, b]: gain of steps a + 1 .. b - 1, all reusing a
    reach[:, 1:] = np.triu(gains, 1).cumsum(axis=1)
    steps = np.arange(n)
    hop = np.where(steps - steps[:, None] >= min_gap, reach[:, :n], -np.inf)
    value, last = np.empty(n_updates), np.empty(n_updates, dtype=int)
    previous = np.zeros((n_updates, n), dtype=int)
    best = np.where(steps == 0, 0.0, -np.inf)  # [e]: steps before e, if the k-th update is e
    for k in range(n_updates):
        if k:
            candidates = best[:, None] + hop
            previous[k] = candidates.argmax(axis=0)
            best = candidates.max(axis=0)
        total = best + reach[:, n]
        last[k] = n - 1 if force_last and k else total.argmax()
        value[k] = total[last[k]]
    return Optima(value, last, previous)


def adaptive_schedule(
    gains: np.ndarray, n_updates: int, force_last: bool = False, min_gap: int = 1
) -> list[int]:
    """The best update steps of one block, arguments as for `optimal_schedules`.

    Raises:
        ValueError: n_updates below 1, or min_gap leaves no room for so many.
    """
    n = len(gains)
    if n_updates < 1:
        raise ValueError(f"cache.steps must be at least 1, got {n_updates}")
    if n_updates >= n:
        if n_updates > n:
            log.warning("cache.steps=%d: there are %d steps, all are computed", n_updates, n)
        return list(range(n))
    check_gap(n, n_updates, min_gap)
    return optimal_schedules(gains, n_updates, force_last, min_gap).steps(n_updates)


def check_gap(n_steps: int, n_updates: int, min_gap: int) -> None:
    """Refuse a gap that n_updates updates cannot keep."""
    if n_updates > 1 and (n_updates - 1) * min_gap > n_steps - 1:
        raise ValueError(
            f"cache.min_gap must be at most {(n_steps - 1) // (n_updates - 1)} for {n_updates} "
            f"updates in {n_steps} steps, got {min_gap}"
        )


def share_budget(
    values: Sequence[np.ndarray], cost: np.ndarray, n_updates: int, at_least: int = 1
) -> list[int]:
    """Number of updates per block, by gain per FLOP, for the FLOPs of n_updates in every block.

    BAC gives every block the same number. Jumps of more than one update are weighed by their mean
    gain, since a block's gain need not fall with every further update.

    Args:
        values: per block, `Optima.value` for 1, 2, ... updates.
        cost: (n_sites,) FLOPs of one update.
        n_updates: mean updates, weighted by FLOPs.
        at_least: updates of every block, at most n_updates.

    Returns:
        Updates per block; their FLOPs are at most those of n_updates in every block.
    """
    counts = [at_least] * len(values)
    left = float(cost.sum() * n_updates - cost @ np.array(counts))
    jumps = [_best_jump(v, c, n, left) for v, c, n in zip(values, cost, counts, strict=True)]
    while True:
        block = int(np.argmax([slope for slope, _ in jumps]))
        slope, jump = jumps[block]
        if slope == -np.inf:
            return counts
        counts[block] += jump
        left -= float(cost[block]) * jump
        for u, (_, size) in enumerate(jumps):
            if u == block or size * cost[u] > left:
                jumps[u] = _best_jump(values[u], cost[u], counts[u], left)


def _best_jump(value: np.ndarray, cost: float, count: int, left: float) -> tuple[float, int]:
    """(gain per FLOP, further updates) of the best affordable jump; -inf where there is none."""
    sizes = np.arange(1, min(len(value) - count, int(left / cost + 1e-9)) + 1)
    if not len(sizes):
        return -np.inf, 0
    slopes = (value[count - 1 + sizes] - value[count - 1]) / (sizes * cost)
    best = int(np.argmax(slopes))
    return float(slopes[best]), int(sizes[best])


def layer_of(site: Site) -> int:
    """decoder.layers.3.ff -> 3."""
    return int(site.name.split(".")[-2])


KINDS: dict[str, tuple[str, ...]] = {"all": ("sa", "ca", "ff"), "ff": ("ff",)}


def bubbling_blocks(
    sites: Sequence[Site], volatility: np.ndarray, k: int, kinds: str = "all"
) -> list[int]:
    """Indices of the k most volatile blocks of the chosen kinds, ties in network order."""
    finite("volatility", "", volatility, sites)
    allowed = [u for u, site in enumerate(sites) if site.op in KINDS[kinds]]
    if k > len(allowed):
        log.warning("cache.k=%d: there are %d blocks to choose from, all are", k, len(allowed))
    return sorted(allowed, key=lambda u: -volatility[u])[:k]


def bubbling_union(
    mask: np.ndarray, sites: Sequence[Site], blocks: Sequence[int], transitive: bool = False
) -> np.ndarray:
    """Chosen blocks are also computed where a feed-forward of the same or a deeper layer is.

    Bubbling Union (BAC, section 4.3): a volatile early block that is stale when a late
    feed-forward block is computed passes its error on.

    Args:
        mask: (N, n_sites) bool, the schedules so far.
        sites: in network order.
        blocks: indices of the chosen blocks.
        transitive: unite with schedules that were united already, from the last block to the first
            (a variant found in other implementations). For feed-forward blocks and "same or deeper"
            this gives the same schedules, since what they took on came from deeper still.

    Returns:
        (N, n_sites) bool.
    """
    united = mask.copy()
    for u in sorted(blocks, reverse=True):
        for v, site in enumerate(sites):
            if site.op == "ff" and v != u and layer_of(site) >= layer_of(sites[u]):
                united[:, u] |= (united if transitive else mask)[:, v]
    return united
