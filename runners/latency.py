"""Latency of a query at batch 1, interleaved with the plain policy's in the same run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .evaluate import Acting, query_noise


@dataclass
class LatencyConfig:
    """Untimed queries first, then timed ones, each on another recorded observation."""

    warmup: int = 10
    repeats: int = 100

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ValueError(f"latency.warmup must be at least 0, got {self.warmup}")
        if self.repeats < 0:
            raise ValueError(
                f"latency.repeats must be at least 0 (0 measures nothing), got {self.repeats}"
            )


def timed_ms(policy: Acting, obs: torch.Tensor, noise: torch.Generator, device: str) -> float:
    """Wall time of one query, device included, in milliseconds."""

    def sync() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    sync()
    start = time.perf_counter_ns()
    policy.act(obs, [noise])
    sync()
    return (time.perf_counter_ns() - start) / 1e6


def summary(samples: Sequence[float], n_action_steps: int) -> dict[str, float]:
    """Percentiles of latencies, and what control rate the median allows."""
    p50, p95, p99 = np.percentile(samples, [50, 95, 99])
    return {
        "mean_ms": float(np.mean(samples)),
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "queries_hz": 1000 / float(p50),
        "actions_hz": 1000 * n_action_steps / float(p50),
    }


def measure(
    accelerated: Acting, plain: Acting, observations: np.ndarray, config: LatencyConfig, device: str
) -> dict[str, Any] | None:
    """Time both policies in turn.

    Args:
        accelerated: the policy under test.
        plain: the unaccelerated policy.
        observations: (n, n_obs_steps, obs_dim) recorded in the run's episodes.
        config: warm-ups and repeats.
        device: synchronised around each query.

    Returns:
        {"accelerated": percentiles, "plain": percentiles, "ratio": plain p50 / accelerated p50,
        "samples_ms", ...}, None where nothing was to be measured.
    """
    if not config.repeats or not len(observations):
        return None
    samples: dict[str, list[float]] = {"accelerated": [], "plain": []}
    arms = [("accelerated", accelerated), ("plain", plain)]
    rounds: Iterable[int] = tqdm(
        range(config.warmup + config.repeats),
        desc="latency",
        unit="query",
        disable=None,
        leave=False,
    )
    for i in rounds:
        obs = torch.from_numpy(observations[i % len(observations)][None]).float()
        for name, policy in arms if i % 2 else arms[::-1]:
            elapsed = timed_ms(policy, obs, query_noise(0, 0, i), device)
            if i >= config.warmup:
                samples[name].append(elapsed)
    result: dict[str, Any] = {k: summary(v, accelerated.n_action_steps) for k, v in samples.items()}
    result["ratio"] = result["plain"]["p50_ms"] / result["accelerated"]["p50_ms"]
    result |= {
        "batch": 1,
        "warmup": config.warmup,
        "repeats": config.repeats,
        "threads": torch.get_num_threads(),
        "device": device,
        "samples_ms": {k: [round(x, 4) for x in v] for k, v in samples.items()},
    }
    return result
