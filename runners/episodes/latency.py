"""Latency of a query at batch 1, in turn with the plain policy's in the same run.

A round is one query of the accelerated policy. The plain policy and the run's engine without cache
and quantisation, which take longer, are asked once a turn: beside as many rounds as take as long as
they do. A turn is what the intervals of ratios are drawn from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from skipstep.observations import Arrays, n_rows

from ..machine import cpu, load
from .arms import ACCELERATED, ENGINE, PLAIN, Arms, stage_summary, summary
from .loop import Acting
from .two_clocks import Clocks, Times, compare

WARMUP_SHARE = 0.2  # of max_s, the most that warm-ups take, but for the first one
FEWEST_TURNS = 3  # whatever max_s says
TURNS_OF_AN_INTERVAL = 10  # before it may be narrow by chance
CHECK_EVERY = 5  # turns
PLAIN_QUERIES = 20  # in as many rounds as are asked for: not fewer for the plain arm's being slow


@dataclass
class LatencyConfig:
    """Untimed queries first, then timed ones; conf/config.yaml says more."""

    warmup: int = 10
    repeats: int = 100
    max_s: float = 30.0
    precision: float = 0.05

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ValueError(f"latency.warmup must be at least 0, got {self.warmup}")
        if self.repeats < 0:
            raise ValueError(
                f"latency.repeats must be at least 0 (0 measures nothing), got {self.repeats}"
            )
        if not self.max_s > 0:
            raise ValueError(f"latency.max_s must be above 0, got {self.max_s}")
        if not 0 <= self.precision < 1:
            raise ValueError(
                "latency.precision must be at least 0 (0 goes on to repeats or max_s) and below 1, "
                f"got {self.precision}"
            )


class WithinEpisode:
    """A policy with a memory as it is asked in an episode, after the first query."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.n_obs_steps, self.n_action_steps = policy.n_obs_steps, policy.n_action_steps
        self.obs_spec, self.encode = policy.obs_spec, policy.encode
        self.memory: list[dict[str, Any]] = [{}]

    def act(self, obs: Any, noise: Sequence[torch.Generator]) -> torch.Tensor:
        """One row, with what its last query left."""
        actions: torch.Tensor = self.policy.act(obs, noise, self.memory)
        return actions

    def denoise(self, cond: torch.Tensor, noise: Sequence[torch.Generator]) -> torch.Tensor:
        """The same for an observation that was encoded."""
        actions: torch.Tensor = self.policy.denoise(cond, noise, self.memory)
        return actions


def measure(
    accelerated: Acting,
    plain: Acting,
    observations: Arrays,
    config: LatencyConfig,
    device: str,
    engine: Acting | None = None,
    clocks: Clocks | None = None,
) -> dict[str, Any] | None:
    """Time the policies in turn, until the ratio is known well enough or the time is over.

    Args:
        accelerated: the policy under test.
        plain: the unaccelerated policy.
        observations: (n, n_obs_steps, obs_dim) recorded in the run's episodes; or a mapping of such
            arrays.
        config: warm-ups, repeats and when to stop.
        device: synchronised around each query.
        engine: the plain policy in the engine of the policy under test, where that is not this.
        clocks: of wall and CPU time.

    Returns:
        {"accelerated", "plain", "engine": percentiles, and of their stages where there are any,
        "ratio", "cpu_ratio", "times_as_fast" and their intervals, see `two_clocks.compare`,
        "samples_ms", ...}, None where nothing was to be measured.
    """
    if not config.repeats or not n_rows(observations):
        return None
    policies = {ACCELERATED: accelerated, PLAIN: plain} | ({ENGINE: engine} if engine else {})
    arms = Arms(policies, observations, device, clocks or Clocks())
    before, threads, start_ns = load(), torch.get_num_threads(), arms.clocks.wall_ns()

    def elapsed_s() -> float:
        return (arms.clocks.wall_ns() - start_ns) / 1e9

    def ratios(base: str = PLAIN) -> dict[str, Any]:
        return compare(arms.times[base], arms.times[ACCELERATED], threads, device)

    warmups = warm_up(arms, config, elapsed_s)
    rounds = rounds_of_a_turn(arms.times, config.repeats)
    arms.forget()
    stopped = take_turns(arms, config, warmups, rounds, elapsed_s, ratios)
    found = ratios()
    times, n_steps = arms.times, accelerated.n_action_steps
    return {
        **{
            name: summary(times[name], n_steps) | stage_summary(arms.stages.get(name, {}))
            for name in arms.policies
        },
        **({} if engine else {ENGINE: None}),
        **found,
        "engine_ratio": _medians(times, ENGINE, found["clock"]) if engine else None,
        "load": {"before": before, "after": load(), "cores": os.cpu_count()},
        "cpu": cpu(),
        "batch": 1,
        "warmup": warmups,
        "repeats": len(times[ACCELERATED].wall_ms),
        "plain_repeats": len(times[PLAIN].wall_ms),
        "threads": threads,
        "device": device,
        "stopped": stopped,
        "samples_ms": {k: [round(x, 4) for x in v.wall_ms] for k, v in times.items()},
        "samples_cpu_ms": {k: [round(x, 4) for x in v.cpu_ms] for k, v in times.items()},
    }


def warm_up(arms: Arms, config: LatencyConfig, elapsed_s: Callable[[], float]) -> int:
    """Ask every arm `warmup` times, or until that took its share of the time; how often it was."""
    for i in range(config.warmup):
        if i and elapsed_s() >= WARMUP_SHARE * config.max_s:
            return i
        arms.turn([i], backwards=bool(i % 2))
    return config.warmup


def rounds_of_a_turn(warm: Mapping[str, Times], repeats: int) -> int:
    """Accelerated queries that take as long as one of each other arm; 1 without warm-ups."""
    least = {name: min(times.wall_ms, default=0.0) for name, times in warm.items()}
    fast = least.pop(ACCELERATED)
    balanced = round(sum(least.values()) / fast) if fast else 1
    return max(1, min(balanced, repeats // PLAIN_QUERIES))


def take_turns(
    arms: Arms,
    config: LatencyConfig,
    first: int,
    rounds: int,
    elapsed_s: Callable[[], float],
    ratios: Callable[[], Mapping[str, Any]],
) -> str:
    """Ask until there is enough: "repeats", "narrow" (the interval) or "max_s" says why."""
    most = max(1, config.repeats // rounds)
    bar = tqdm(range(most), desc="latency", unit="turn", disable=None, leave=False)
    for turn in bar:
        start = first + turn * rounds
        arms.turn(range(start, start + rounds), backwards=bool(turn % 2))
        done = turn + 1
        if done == most:
            break
        if done >= FEWEST_TURNS and elapsed_s() >= config.max_s:
            return "max_s"
        checks = config.precision and done >= TURNS_OF_AN_INTERVAL and not done % CHECK_EVERY
        if checks and _is_narrow(ratios(), config.precision):
            return "narrow"
    return "repeats"


def _is_narrow(ratios: Mapping[str, Any], precision: float) -> bool:
    low, high = ratios["times_as_fast_interval"]
    return bool((high - low) / 2 <= precision * ratios["times_as_fast"])


def _medians(times: Mapping[str, Times], base: str, clock: str) -> float:
    """Of an arm over the accelerated one."""
    of_both = (getattr(times[name], f"{clock}_ms") for name in (base, ACCELERATED))
    slow, fast = map(float, map(np.median, of_both))
    return slow / fast
