"""Interleaved timing: every arm once a round, in a new random order each round."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.stats import bootstrap
from tqdm import tqdm

N_RESAMPLES = 2000


def interleave(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    warmup: int,
    seed: int,
    title: str = "",
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, np.ndarray]:
    """Milliseconds of each call, (rounds,), a round being one call of each.

    Args:
        calls: what to time.
        rounds: that count.
        warmup: rounds before them that do not.
        seed: of the order.
        title: of the progress bar.
        clock_ns: time.process_time_ns for CPU time.
    """
    random = np.random.default_rng(seed)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for i in tqdm(range(warmup + rounds), desc=title, unit="round", disable=None, leave=False):
        for name in random.permutation(list(calls)):
            start = clock_ns()
            calls[name]()
            elapsed = (clock_ns() - start) / 1e6
            if i >= warmup:
                samples[name].append(elapsed)
    return {name: np.array(values) for name, values in samples.items()}


def percentiles(samples: np.ndarray) -> dict[str, float]:
    return {f"p{p}_ms": float(np.percentile(samples, p)) for p in (10, 50, 90)}


def times_as_fast(base: np.ndarray, arm: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Median of `base` over median of `arm`, and its 95 % bootstrap interval over rounds.

    Rounds are drawn, not single times: what slows a whole round down slows both.
    """

    def ratio(base: np.ndarray, arm: np.ndarray, axis: int = -1) -> np.ndarray:
        result: np.ndarray = np.median(base, axis=axis) / np.median(arm, axis=axis)
        return result

    value = float(ratio(base, arm))
    if np.array_equal(base, arm):
        return value, value, value
    interval = bootstrap(
        (base, arm),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=N_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return value, float(interval.low), float(interval.high)
