"""Settings of the caches of image transformers that cost what bac costs by default."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from accel import (
    BacConfig,
    DeepCacheConfig,
    FirstBlockConfig,
    IntervalConfig,
    TaylorConfig,
    TeaCacheConfig,
)

from .candidates import Budget, Candidate

NEAR = 0.03  # FLOPs of a setting may be this much more or less
THRESHOLDS = (1e-3, 1e2)
HALVINGS = 12


def ends(n_steps: int) -> tuple[int, ...]:
    """How many of the last steps are all computed."""
    return n_steps // 10, n_steps // 20, 0


def intervals(b: Budget) -> Iterator[IntervalConfig]:
    """Windows of all blocks, or of all but the first or the last one."""
    n, depth = b.policy.n_inference_steps, b.policy.sizes.n_layer
    windows = [(0, None)] + ([(1, depth - 1), (0, depth - 1)] if depth > 1 else [])
    for start, interval, (first, width) in itertools.product(
        range(n // 5), range(2, n // 5), windows
    ):
        # the last step is the one that matters most: only those that compute it
        if (n - 1 - start) % interval == 0:
            yield IntervalConfig(start=start, interval=interval, first_block=first, n_blocks=width)


def deepcaches(b: Budget) -> Iterator[DeepCacheConfig]:
    n = b.policy.n_inference_steps
    for last, interval in itertools.product(ends(n), range(2, n)):
        yield DeepCacheConfig(compute_end=n - last, compute_interval=interval)


def taylors(b: Budget) -> Iterator[TaylorConfig]:
    n = b.policy.n_inference_steps
    warm_ups = (1, 3)
    for last, warm_up, interval in itertools.product(ends(n), warm_ups, range(2, n // 3)):
        for order, basis in ((1, "newton"), (2, "newton"), (2, "compat")):
            yield TaylorConfig(
                order=order, warm_up=warm_up, cool_down=last, interval=interval, basis=basis
            )


def static(configs: Callable[[Budget], Iterable[Any]]) -> Callable[[Budget], Iterable[Candidate]]:
    """All settings of a method that fit."""

    def candidates(b: Budget) -> Iterator[Candidate]:
        wanted = b.equivalent_steps(BacConfig(steps=b.steps))
        for config in configs(b):
            if abs(b.equivalent_steps(config) / wanted - 1) <= NEAR:
                yield b.cached(config)

    return candidates


def deciding(kind: Callable[..., Any]) -> Callable[[Budget], Iterable[Candidate]]:
    """Settings with the threshold that makes what runs on the calibration queries fit, if any."""

    def candidates(b: Budget) -> Iterator[Candidate]:
        wanted = b.equivalent_steps(BacConfig(steps=b.steps))
        for last in ends(b.policy.n_inference_steps):
            low, high = THRESHOLDS
            for _ in range(HALVINGS):
                middle = float(f"{np.sqrt(low * high):.3g}")
                candidate = b.cached(kind(cool_down=last, threshold=middle))
                found = b.measured_steps(candidate) / wanted - 1
                if abs(found) <= NEAR / 3:
                    break
                low, high = (middle, high) if found > 0 else (low, middle)
            if abs(found) <= NEAR:
                yield candidate

    return candidates


METHODS: dict[str, Callable[[Budget], Iterable[Candidate]]] = {
    "interval": static(intervals),
    "deepcache": static(deepcaches),
    "taylor": static(taylors),
    "teacache": deciding(TeaCacheConfig),
    "first_block": deciding(FirstBlockConfig),
}
