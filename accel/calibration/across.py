"""What the query before is worth: moments of branches over consecutive queries of an episode.

A later query's value y at a step can be told from x, its own value at an earlier step, from p, the
query before's value at the same step, from the mean m of all queries, or from several of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from skipstep.observations import n_rows

from ..plans.able import check_branches
from ..protocol import Observation, Transparent
from .branch_outputs import observe
from .calibration import Calibration

STATISTIC = "across"
MOMENTS = ("now", "cross", "before")
LEAST_PAIRS = 8


@dataclass(frozen=True, eq=False)
class AcrossMoments:
    """Inner products over pairs of consecutive queries; live tokens only.

    Attributes:
        now: (n_sites, N, N) of a later query's values in steps i and j.
        cross: (n_sites, N, N) of a later query's value in step i and the query before's in j.
        before: (n_sites, N, N) of the query before's.
        n_pairs: they are means over so many; 0: not said.
    """

    now: np.ndarray
    cross: np.ndarray
    before: np.ndarray
    n_pairs: int = 0

    def fit(self, site: int, step: int, anchor: int | None, before: bool = True) -> Fit:
        """The weights of least squared error for a value.

        Args:
            site: of the value.
            step: likewise.
            anchor: the step of the own value; None: it is not used.
            before: whether the query before's value is used.
        """
        now, cross = self.now[site], self.cross[site]
        gram, target = np.zeros((2, 2)), np.zeros(2)
        if anchor is not None:
            gram[0, 0], target[0] = now[anchor, anchor], now[anchor, step]
        if before:
            gram[1, 1], target[1] = self.before[site, step, step], cross[step, step]
        if anchor is not None and before:
            gram[0, 1] = gram[1, 0] = cross[anchor, step]
        weights = np.linalg.pinv(gram, rcond=1e-10, hermitian=True) @ target
        error = now[step, step] - 2 * weights @ target + weights @ gram @ weights
        return Fit(float(weights[0]), float(weights[1]), max(float(error), 0.0))

    def error(self, site: int, step: int, anchor: int | None, before: bool) -> float:
        """Mean squared error where one of the two stands in as it is."""
        now = self.now[site]
        total = float(now[step, step])
        if before:
            other, inner = self.before[site, step, step], self.cross[site, step, step]
        else:
            other, inner = now[anchor, anchor], now[anchor, step]
        return max(total + float(other) - 2 * float(inner), 0.0)


@dataclass(frozen=True)
class Fit:
    """Weights of a query's own value and of the query before's, and the mean squared error."""

    own: float
    before: float
    error: float


def measure_across(
    policy: Transparent,
    episodes: Sequence[tuple[Observation, Sequence[torch.Generator]]],
) -> dict[str, np.ndarray]:
    """Moments over consecutive queries of the plain policy, see `moments_of`.

    Args:
        policy: in eval mode.
        episodes: of each, (Q, n_obs_steps, obs_dim) or a mapping of arrays with Q rows, consecutive
            queries in order, and a generator for each.

    Returns:
        {"across.now", ...}: raw moments; "across.now_mean", ...: inner products of means over
        pairs; (n_sites, N, N) float64; "across.pairs": (1,) float64, how many pairs.

    Raises:
        ValueError: fewer than 8 pairs, or a network without branches.
    """
    check_branches(policy, "values of the query before")
    n_pairs = sum(max(n_rows(obs) - 1, 0) for obs, _ in episodes)
    if n_pairs < LEAST_PAIRS:
        raise ValueError(
            f"consecutive queries must make at least {LEAST_PAIRS} pairs, got {n_pairs}"
        )
    sums = _Sums()
    with torch.inference_mode():
        for obs, noise in episodes:
            _, features = observe(policy, policy.encode(obs), noise)
            for before, now in pairwise(features):
                sums.add(before.flatten(2), now.flatten(2))
    return sums.arrays(n_pairs)


class _Sums:
    """Over pairs; grams in float32, summed in float64."""

    def __init__(self) -> None:
        self.raw = [torch.zeros(()) for _ in MOMENTS]
        self.totals = [torch.zeros(()) for _ in ("before", "now")]

    def add(self, before: Tensor, now: Tensor) -> None:
        """(n_sites, N, size) of both queries."""
        products = (now @ now.mT, now @ before.mT, before @ before.mT)
        self.raw = [a + b.double().cpu() for a, b in zip(self.raw, products, strict=True)]
        both = (before, now)
        self.totals = [a + b.double().cpu() for a, b in zip(self.totals, both, strict=True)]

    def arrays(self, n_pairs: int) -> dict[str, np.ndarray]:
        before, now = (total / n_pairs for total in self.totals)
        means = (now @ now.mT, now @ before.mT, before @ before.mT)
        found = {"pairs": np.array([float(n_pairs)])}
        for name, raw, mean in zip(MOMENTS, self.raw, means, strict=True):
            found[name], found[f"{name}_mean"] = (raw / n_pairs).numpy(), mean.numpy()
        return {f"{STATISTIC}.{name}": array for name, array in found.items()}


def moments_of(arrays: dict[str, np.ndarray], centred: bool) -> AcrossMoments:
    """The moments in what `measure_across` returned, of values or of how they are off their mean.

    centred: less the mean of each step over the pairs, which is estimated from the same ones: so
        they are multiplied by n / (n - 1).
    """
    n = int(arrays[f"{STATISTIC}.pairs"][0])
    found = [arrays[f"{STATISTIC}.{name}"] for name in MOMENTS]
    if centred:
        means = (arrays[f"{STATISTIC}.{name}_mean"] for name in MOMENTS)
        found = [(raw - mean) * n / (n - 1) for raw, mean in zip(found, means, strict=True)]
    now, cross, before = found
    return AcrossMoments(now, cross, before, n)


def with_across(
    calibration: Calibration,
    policy: Transparent,
    episodes: Sequence[tuple[Observation, Sequence[torch.Generator]]],
) -> Calibration:
    """A calibration with the statistic that `cache=hash_ab cache.across=true` needs.

    Arguments as of `measure_across`; PlanError where the calibration is another policy's.
    """
    calibration.check(policy)
    return calibration.with_added(measure_across(policy, episodes))


@dataclass(frozen=True)
class Worth:
    """Relative errors of ways to tell a value, RMS over the cells of some steps.

    Attributes:
        steps: first and last of them.
        own: this query's nearest earlier computed step stands in.
        own_fitted: with a weight of least squares.
        before: the query before's value at the same step does.
        both: the two with weights of least squares.
        mean: the mean over all pairs does.
        own_centred: the mean, and the least squares of how the own value is off its own.
        both_centred: the mean, and the least squares of how both are off theirs.
    """

    steps: tuple[int, int]
    own: float
    own_fitted: float
    before: float
    both: float
    mean: float
    own_centred: float
    both_centred: float


def worth(
    arrays: dict[str, np.ndarray],
    computed: Sequence[int],
    groups: int = 3,
    sites: Sequence[int] | None = None,
) -> list[Worth]:
    """What age-1 values are worth on the steps of a schedule but its first one.

    Args:
        arrays: of `measure_across`.
        computed: update steps of all sites, ascending, from 0 on. Each is told from the one before
            it, as where a later query takes it and does not compute it.
        groups: the steps in so many parts, each as long as the others.
        sites: indices; None: all.
    """
    raw, centred = (moments_of(arrays, flag) for flag in (False, True))
    sites = range(len(raw.now)) if sites is None else sites
    found = []
    for part in np.array_split(np.arange(1, len(computed)), groups):
        cells = [(u, computed[i], computed[i - 1]) for i in part.tolist() for u in sites]
        if not cells:
            continue
        size = sum(raw.now[u, t, t] for u, t, _ in cells)
        sums = [
            sum(raw.error(u, t, a, before=False) for u, t, a in cells),
            sum(raw.fit(u, t, a, before=False).error for u, t, a in cells),
            sum(raw.error(u, t, None, before=True) for u, t, _ in cells),
            sum(raw.fit(u, t, a).error for u, t, a in cells),
            sum(float(centred.now[u, t, t]) for u, t, _ in cells),
            sum(centred.fit(u, t, a, before=False).error for u, t, a in cells),
            sum(centred.fit(u, t, a).error for u, t, a in cells),
        ]
        shares = [float(np.sqrt(max(value, 0.0) / size)) for value in sums]
        found.append(Worth((computed[part[0]], computed[part[-1]]), *shares))
    return found


COLUMNS = {
    "own": "own",
    "own_fitted": "own, fitted",
    "before": "before",
    "both": "both, fitted",
    "mean": "mean",
    "own_centred": "mean and own",
    "both_centred": "mean and both",
}


def table(rows: Sequence[Worth]) -> str:
    """Markdown."""
    words = [f"| steps | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row in rows:
        first, last = row.steps
        shares = " | ".join(f"{getattr(row, name):.3f}" for name in COLUMNS)
        words.append(f"| {first} to {last} | {shares} |")
    return "\n".join(words)
