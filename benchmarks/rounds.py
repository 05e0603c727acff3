"""Interleaved timing: every arm once a round, in a new random order each round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from runners.episodes.two_clocks import Clocks, Times, compare, timed


def interleave(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    warmup: int = 0,
    seed: int = 0,
    clocks: Clocks | None = None,
    before: Callable[[int], None] = lambda i: None,
) -> dict[str, Times]:
    """Wall and CPU milliseconds of each call, a round being one call of each.

    Args:
        calls: what to time.
        rounds: that count.
        warmup: rounds before them that do not.
        seed: of the order.
        clocks: where times come from.
        before: what to do before each call, untimed; is given the round, below 0 in the warm-up.
    """
    clocks, random = clocks or Clocks(), np.random.default_rng(seed)
    found = {name: Times([], []) for name in calls}
    for i in tqdm(range(-warmup, rounds), unit="round", disable=None, leave=False):
        for name in random.permutation(list(calls)).tolist():
            before(i)
            wall_ms, cpu_ms = timed(calls[name], clocks)
            if i >= 0:
                found[name].wall_ms.append(wall_ms)
                found[name].cpu_ms.append(cpu_ms)
    return found


def beside(base: Times, arm: Times, threads: int) -> dict[str, Any]:
    """An arm's times, and how many times as fast as `base` it is.

    Rounds are drawn for the intervals, not single times: what slows a whole round down slows both.

    Returns:
        percentiles of wall time, "cpu_p50_ms", and what `two_clocks.compare` returns, with
        "times_as_fast" and "times_as_fast_interval" by the clock that counts.
    """
    return {
        **{f"p{p}_ms": float(np.percentile(arm.wall_ms, p)) for p in (10, 50, 90)},
        "cpu_p50_ms": float(np.median(arm.cpu_ms)),
        **compare(base, arm, threads, "cpu"),
    }
