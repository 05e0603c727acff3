"""Success rates with intervals, and the paired comparison of two arms on the same seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb, sqrt

import numpy as np
import scipy  # its parts are loaded at their first use; scipy.stats alone takes a second
from numpy.typing import ArrayLike


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927); (0, 1) for n = 0.

    Example:
        >>> low, high = wilson(84, 100)
        >>> f"{low:.3f} to {high:.3f}"
        '0.756 to 0.899'
    """
    if n == 0:
        return 0.0, 1.0
    z = float(scipy.special.ndtri(0.5 + confidence / 2))
    share, scale = successes / n, 2 * (n + z**2)
    centre = (2 * n * share + z**2) / scale
    reach = z / scale * sqrt(4 * n * share * (1 - share) + z**2)
    low = centre - reach if successes > 0 else 0.0
    return low, centre + reach if successes < n else 1.0


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p-value of so many wins and losses, were either as likely; 1 without any.

    Example:
        >>> mcnemar(3, 11)
        0.057373046875
    """
    d = wins + losses
    if d == 0:
        return 1.0
    tail = sum(comb(d, k) for k in range(min(wins, losses) + 1))
    return min(1.0, tail / (1 << (d - 1)))


@dataclass(frozen=True)
class Paired:
    """An arm against its baseline on the seeds that both have.

    Attributes:
        n: common seeds.
        wins: seeds that only the arm solved.
        losses: seeds that only the baseline solved.
        p_value: exact McNemar, two-sided.
        difference: the arm's success rate minus the baseline's.
        difference_interval: Tango's, 95 %.
    """

    n: int
    wins: int
    losses: int
    p_value: float
    difference: float
    difference_interval: tuple[float, float]


def paired(arm: Mapping[int, bool], baseline: Mapping[int, bool]) -> Paired | None:
    """Compare {seed: success} of two arms; None where they share no seed.

    The p-value is McNemar's (1947) in its exact form: where the arms are alike, each of the d seeds
    on which they differ is a win with probability 1/2, so that W ~ Binomial(d, 1/2), and
    p = min(1, 2 P(W <= min(wins, losses))); 1 where d = 0. Seeds on which both end alike say
    nothing of the difference, and do not enter it. The interval is `tango`'s.

    Example:
        >>> found = paired({1: True, 2: True, 3: True}, {1: False, 2: True, 3: True})
        >>> found.wins, found.losses, found.p_value
        (1, 0, 1.0)
    """
    seeds = arm.keys() & baseline.keys()
    if not seeds:
        return None
    wins = sum(arm[s] and not baseline[s] for s in seeds)
    losses = sum(baseline[s] and not arm[s] for s in seeds)
    n, difference = len(seeds), (wins - losses) / len(seeds)
    return Paired(n, wins, losses, mcnemar(wins, losses), difference, tango(wins, losses, n))


def tango(wins: int, losses: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of the difference of two paired proportions (Tango 1998, eq. 6-8).

    The bounds are where the score statistic meets the normal quantile.

    Example:
        >>> low, high = tango(wins=4, losses=9, n=100)
        >>> f"{low:+.2f} to {high:+.2f}"
        '-0.13 to +0.02'
    """
    z = float(scipy.special.ndtri(0.5 + confidence / 2))

    def bound(target: float, inner: float, outer: float) -> float:
        def gap(delta: float) -> float:
            return float(tango_score(wins, losses, n, delta)) - target

        edge = outer * (1 - 1e-12)
        if gap(inner) * gap(edge) > 0:
            return outer
        return float(scipy.optimize.brentq(gap, inner, edge, xtol=1e-10))

    estimate = (wins - losses) / n
    return bound(z, estimate, -1.0), bound(-z, estimate, 1.0)


def tango_score(wins: ArrayLike, losses: ArrayLike, n: int, delta: float) -> np.ndarray:
    """Score statistic of "the difference is delta", standard normal where it is (Tango 1998).

    Its variance rests on the constrained estimate of the losing probability; at delta = 0 it is
    McNemar's statistic. `wins` and `losses` are numbers or arrays of one shape.
    """
    wins, losses = np.asarray(wins, np.float64), np.asarray(losses, np.float64)
    b = -wins - losses + (2 * n - wins + losses) * delta
    c = -losses * delta * (1 - delta)
    q = (np.sqrt(np.maximum(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
    variance = n * (2 * q + delta * (1 - delta))
    gap = wins - losses - n * delta
    scale = np.sqrt(np.where(variance > 0, variance, 1.0))
    return np.where(variance > 0, gap / scale, np.where(gap == 0, 0.0, np.copysign(np.inf, gap)))
