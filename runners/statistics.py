"""What a study may conclude: many comparisons, margins, power, bootstrap intervals, strata."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy
from numpy.typing import ArrayLike

from .metrics import mcnemar, tango, tango_score

RESAMPLES = 2000
MIN_DIFFERING = 5
ALPHA = 0.05  # of a loss that counts as detected, after Holm
MARGIN = 0.05  # a loss of success rate that is small enough, unless a report says otherwise


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given (Holm 1979): no false alarm in all with 1 - alpha.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return [float(value) for value in adjusted]


@dataclass(frozen=True)
class NonInferiority:
    """Is an arm worse than its baseline by less than `margin` (a difference of success rates)?

    shown: Tango's interval lies above -margin. False is no evidence of a loss: see
        `loss_detected`.
    p_value: one-sided, of Tango's score test against a difference of -margin.
    """

    margin: float
    shown: bool
    p_value: float


def noninferiority(
    wins: int, losses: int, n: int, margin: float, confidence: float = 0.95
) -> NonInferiority:
    """Judge an arm by its paired interval; at 95 % the one-sided level is 2.5 %.

    Example:
        >>> noninferiority(wins=46, losses=20, n=300, margin=0.03).shown
        True
    """
    low, _ = tango(wins, losses, n, confidence)
    p_value = float(scipy.special.ndtr(-tango_score(wins, losses, n, -margin)))
    return NonInferiority(margin, low > -margin, p_value)


def loss_detected(difference: float, p_holm: float, alpha: float = ALPHA) -> bool:
    """Whether an arm is worse than its baseline: McNemar's p-value, adjusted by Holm, says so.

    The interval of one difference does not: it knows nothing of the study's other comparisons.
    """
    return difference < 0 and p_holm < alpha


@cache
def power(
    n: int, discordance: float, margin: float, difference: float = 0.0, confidence: float = 0.95
) -> float:
    """Probability that `n` seeds show non-inferiority: exact, summed over all outcomes.

    Args:
        n: Seeds that both arms have.
        discordance: Share of seeds on which the arms differ, more than 0.
        margin: Of the verdict.
        difference: The true difference, at most `discordance` in size.
        confidence: Of the interval that the verdict rests on.

    Example:
        >>> round(power(300, discordance=0.2, margin=0.05), 2)
        0.48
    """
    z = scipy.stats.norm.isf((1 - confidence) / 2)
    low, high = scipy.stats.binom.ppf([1e-9, 1 - 1e-9], n, discordance).astype(int)
    discordant = np.arange(low, high + 1)
    # of so many discordant seeds, the fewest wins that show it: bisected for all at once
    fewest, most = np.zeros_like(discordant), discordant + 1
    while (fewest < most).any():
        wins = (fewest + most) // 2
        shown = tango_score(wins, np.maximum(discordant - wins, 0), n, -margin) > z
        fewest, most = np.where(shown, fewest, wins + 1), np.where(shown, wins, most)
        fewest = np.minimum(fewest, most)
    winning = (1 + difference / discordance) / 2
    shown_of = scipy.stats.binom.sf(fewest - 1, discordant, winning)
    return float(scipy.stats.binom.pmf(discordant, n, discordance) @ shown_of)


def episodes_needed(margin: float, discordance: float, least: float = 0.8) -> int:
    """How many seeds show non-inferiority with this probability, were both arms equally good?

    The smallest number for which the exact `power` of the verdict's own test reaches `least`; the
    power rises in small teeth, so that a few more seeds may have a hair less. It is not the number
    that finds a loss of the margin, nor one for arms that really differ: for a true difference
    below 0 it takes more.

    Args:
        margin: Of the verdict.
        discordance: Share of seeds on which the arms differ, more than 0.
        least: Power asked for.

    Example:
        >>> episodes_needed(margin=0.1, discordance=0.2)
        165
    """

    def enough(n: int) -> bool:
        return power(n, discordance, margin) >= least

    low, high = 0, 16
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    teeth = math.ceil(2 / margin)  # seeds over which the power rises and falls
    return next(n for n in range(max(high - teeth, 1), high + 1) if enough(n))


def bootstrap(
    samples: ArrayLike,
    statistic: Callable[[np.ndarray], np.ndarray],
    rng: np.random.Generator,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval over resampled rows (Efron 1979).

    Args:
        samples: (n, ...), a row is what was measured together.
        statistic: (resamples, n, ...) -> (resamples,).
        rng: Where the resamples come from.
        confidence: Of the interval.
    """
    rows = np.asarray(samples, dtype=np.float64)
    values = statistic(rows[rng.integers(0, len(rows), (RESAMPLES, len(rows)))])
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def latency_ratio(
    plain_ms: Sequence[float], accelerated_ms: Sequence[float], rng: np.random.Generator
) -> tuple[float, tuple[float, float]]:
    """Median over median with a bootstrap interval of turns.

    A turn is one plain query and the accelerated ones, one or more, that were timed beside it. The
    interval is about this measurement: it does not hold what another machine, process or hour would
    change.
    """
    plain, fast = np.asarray(plain_ms, np.float64), np.asarray(accelerated_ms, np.float64)
    turns = np.concatenate([plain[:, None], fast.reshape(len(plain), -1)], axis=1)

    def ratio(rows: np.ndarray) -> np.ndarray:
        medians = np.median(rows[..., 1:], axis=(-2, -1))
        quotient: np.ndarray = np.median(rows[..., 0], axis=-1) / medians
        return quotient

    return float(ratio(turns)), bootstrap(turns, ratio, rng)


@dataclass(frozen=True)
class ScoreDifference:
    """Mean of score minus the baseline's score on common seeds.

    interval: bootstrap over seeds; None with fewer than `MIN_DIFFERING` seeds that differ, where
        resamples without any of them are too frequent for its ends to mean something.
    """

    n: int
    n_differing: int
    difference: float
    interval: tuple[float, float] | None


def score_difference(
    arm: Mapping[int, float], baseline: Mapping[int, float], rng: np.random.Generator
) -> ScoreDifference | None:
    """Compare {seed: score} of two arms; None where they share no seed.

    Paired bootstrap rather than Wilcoxon's signed ranks: the scores are sevenths and most seeds
    tie, which Wilcoxon drops, and it tests the middle of the rest, not the mean that is reported.
    """
    seeds = sorted(arm.keys() & baseline.keys())
    if not seeds:
        return None
    gaps = np.array([arm[s] - baseline[s] for s in seeds])
    differing = int(np.count_nonzero(gaps))
    interval = None
    if differing >= MIN_DIFFERING:
        interval = bootstrap(gaps, lambda rows: rows.mean(axis=-1), rng)
    return ScoreDifference(len(seeds), differing, float(gaps.mean()), interval)


@dataclass(frozen=True)
class Pooled:
    """One method over several strata (tasks, checkpoints, noise seeds), each counting the same.

    p_value: exact McNemar of the sums, valid whatever the strata's own rates.
    difference_interval: from the strata's Tango intervals (MOVER, Zou and Donner 2008);
        strata are taken as independent.
    """

    n_strata: int
    n: int
    wins: int
    losses: int
    p_value: float
    difference: float
    difference_interval: tuple[float, float]


def pooled(strata: Sequence[tuple[int, int, int]]) -> Pooled:
    """Combine (wins, losses, n) of at least one stratum."""
    wins, losses, n = (sum(column) for column in zip(*strata, strict=True))
    estimates = np.array([(w - lost) / size for w, lost, size in strata])
    bounds = np.array([tango(*stratum) for stratum in strata])
    below, above = np.sqrt(((bounds - estimates[:, None]) ** 2).sum(axis=0)) / len(strata)
    mean = float(estimates.mean())
    interval = (mean - float(below), mean + float(above))
    return Pooled(len(strata), n, wins, losses, mcnemar(wins, losses), mean, interval)
