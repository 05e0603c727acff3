"""Wall and CPU time of the same calls: which of the two says how many times as fast an arm is.

On a machine that others use, wall time counts what they take, and a long query loses more to them
than a short one: the ratio is inflated. CPU time counts this process alone. But it counts all of
its threads, so with several of them it is what a query costs, not how long it takes; and on a GPU
it is hardly anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..statistics import latency_ratio

MOST = 1.2  # times the smaller of two ratios that agree
ALONE = 0.9  # least CPU time over wall time of a process that has a core for itself

Clock = Literal["wall", "cpu"]


@dataclass(frozen=True)
class Clocks:
    """Where times come from, in nanoseconds; the second one counts all threads of this process."""

    wall_ns: Callable[[], int] = time.perf_counter_ns
    cpu_ns: Callable[[], int] = time.process_time_ns


@dataclass
class Times:
    """Milliseconds of an arm's calls, in their order."""

    wall_ms: list[float]
    cpu_ms: list[float]

    @property
    def starved(self) -> bool:
        """Whether the calls waited for a core, by their medians."""
        return bool(np.median(self.cpu_ms) < ALONE * np.median(self.wall_ms))


def timed(
    call: Callable[[], Any], clocks: Clocks, sync: Callable[[], None] = lambda: None
) -> tuple[float, float]:
    """Wall and CPU milliseconds of one call, `sync` waiting for a device around it."""
    sync()
    wall, cpu = clocks.wall_ns(), clocks.cpu_ns()
    call()
    sync()
    cpu, wall = clocks.cpu_ns() - cpu, clocks.wall_ns() - wall
    return wall / 1e6, cpu / 1e6


def agree(one: float, other: float) -> bool:
    """Whether two ratios differ by at most a fifth."""
    return max(one, other) <= MOST * min(one, other)


def trusted(wall: float, cpu: float, threads: int, device: str, starved: bool) -> Clock:
    """The clock whose ratio counts: wall time, unless CPU time disagrees with it.

    Where several threads had the machine for themselves, the smaller ratio counts: the plain policy
    may have taken the CPU time of all, and half as long.
    """
    if device.startswith("cuda") or agree(wall, cpu):
        return "wall"
    return "wall" if threads > 1 and not starved and wall < cpu else "cpu"


def compare(base: Times, arm: Times, threads: int, device: str, seed: int = 0) -> dict[str, Any]:
    """How many times as fast an arm is by both clocks, with 95 % intervals, and which counts.

    Args:
        base: n calls.
        arm: n calls, or as many times as many, which then took turns with those of `base`.
        threads: of the policy.
        device: where it runs.
        seed: of the bootstrap.

    Returns:
        {"ratio", "ratio_interval": of wall time, "cpu_ratio", "cpu_ratio_interval",
        "times_as_fast", "times_as_fast_interval": of the clock that counts, "clock": "wall" or
        "cpu", "warning": one sentence where the two disagree, else None}
    """
    wall, wall_interval = _ratio(base.wall_ms, arm.wall_ms, seed)
    cpu, cpu_interval = _ratio(base.cpu_ms, arm.cpu_ms, seed)
    clock = trusted(wall, cpu, threads, device, base.starved or arm.starved)
    return {
        "ratio": wall,
        "ratio_interval": wall_interval,
        "cpu_ratio": cpu,
        "cpu_ratio_interval": cpu_interval,
        "times_as_fast": wall if clock == "wall" else cpu,
        "times_as_fast_interval": wall_interval if clock == "wall" else cpu_interval,
        "clock": clock,
        "warning": None if device.startswith("cuda") else _warning(wall, cpu, clock, threads),
    }


def _ratio(base: Sequence[float], arm: Sequence[float], seed: int) -> tuple[float, list[float]]:
    value, interval = latency_ratio(base, arm, np.random.default_rng(seed))
    return value, list(interval)


def _warning(wall: float, cpu: float, clock: Clock, threads: int) -> str | None:
    if agree(wall, cpu):
        return None
    of_threads = "" if threads == 1 else f" of all {threads} threads"
    name = {"wall": "wall", "cpu": "CPU"}[clock]
    return (
        f"{wall:.3g} times as fast by wall time and {cpu:.3g} by CPU time{of_threads}: {name} time "
        "counts; measure again while nothing else uses this machine"
    )
