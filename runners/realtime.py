"""Latency in the loop: the simulator goes on while the policy thinks.

A query asked at step q with a delay of d steps is answered at step q + d; its actions are those
of the steps from q on, so the first d come too late and are dropped (n_latency_steps of
real-stanford/diffusion_policy's runners). Until then the earlier chunk goes on, and after its end
the robot holds. Differences: the first query is answered before the episode's first step, the world
being at rest; a delay above half a chunk leaves gaps, which are held, where the reference would
need several queries at once; delays may vary from query to query.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .settings import UserError, build
from .store import RESULT

STREAM = 1  # apart from the noise, which has the same three numbers


@dataclass
class RealtimeConfig:
    """Where a delay comes from; conf/config.yaml says more. `from_` is spelled `from` there.

    `on` is None where the other two decide.
    """

    on: bool | None = None
    latency_ms: float | None = None
    from_: str | None = None

    def __post_init__(self) -> None:
        if self.latency_ms is not None and not 0 <= self.latency_ms < math.inf:
            raise ValueError(f"realtime.latency_ms must be at least 0, got {self.latency_ms}")
        if self.latency_ms is not None and self.from_ is not None:
            raise ValueError("realtime.latency_ms and realtime.from exclude each other")

    @property
    def enabled(self) -> bool:
        named = self.latency_ms is not None or self.from_ is not None
        return named if self.on is None else self.on


def realtime_config(node: Mapping[Any, Any]) -> RealtimeConfig:
    """Typed settings; Python does not take `from` as a name."""
    values = {"from_" if key == "from" else str(key): value for key, value in node.items()}
    config: RealtimeConfig = build(RealtimeConfig, values, "realtime")
    return config


@dataclass(frozen=True)
class Delays:
    """Delays of queries in control steps, and what they were made of.

    Attributes:
        steps: one is drawn for each query; a single one is everybody's.
        lead: a query is asked so many steps before its chunk is needed: the 95th percentile.
        said: latency and delay, for people to read.
    """

    steps: tuple[int, ...]
    said: str

    @property
    def lead(self) -> int:
        return int(np.percentile(self.steps, 95, method="higher"))

    @property
    def mean(self) -> float:
        return float(np.mean(self.steps))

    def of(self, noise_seed: int, seed: int, query: int) -> int:
        """The delay of a query: a function of these numbers alone."""
        random = np.random.default_rng((noise_seed, seed, query, STREAM))
        return self.steps[int(random.integers(len(self.steps)))]

    def record(self) -> dict[str, Any]:
        """For config.yaml and result.json."""
        low, high = min(self.steps), max(self.steps)
        delay = str(low) if low == high else f"{low} to {high}"
        return {"delay_steps": delay, "mean": round(self.mean, 3), "said": self.said}


def delay_steps(latency_ms: float, control_hz: float) -> int:
    """The steps that pass before an answer can act."""
    return math.ceil(round(latency_ms / 1000 * control_hz, 9))


def delays_of(config: RealtimeConfig, control_hz: float, own_run: Path) -> Delays | None:
    """The delays that a run is to have; None for none.

    Args:
        config: the settings.
        control_hz: of the task.
        own_run: the folder of the same run without delays, whose latencies are used where the
            settings name none.

    Raises:
        UserError: there are no recorded latencies.
    """
    if not config.enabled:
        return None
    if config.latency_ms is not None:
        samples: Sequence[float] = [config.latency_ms]
    else:
        samples = _recorded(Path(config.from_) if config.from_ else None, own_run)
    steps = [delay_steps(ms, control_hz) for ms in samples]
    if len(set(steps)) == 1:
        steps = steps[:1]
    p50, p95 = np.percentile(samples, [50, 95])
    latency = f"{p50:.4g} ms" if len(samples) == 1 else f"p50 {p50:.4g} ms, p95 {p95:.4g}"
    shares = [f"{n} steps: {steps.count(n) / len(steps):.0%}" for n in sorted(set(steps))]
    delay = f"{steps[0]} steps" if len(steps) == 1 else ", ".join(shares)
    return Delays(tuple(steps), f"{delay} at {control_hz:g} Hz ({latency})")


def _recorded(named: Path | None, own_run: Path) -> list[float]:
    """The accelerated policy's latencies in a run's result."""
    path = (named or own_run) / RESULT
    latency = (json.loads(path.read_text()) if path.exists() else {}).get("latency")
    if latency:
        return [float(ms) for ms in latency["samples_ms"]["accelerated"]]
    if named:
        raise UserError(f"realtime.from must be a finished run with latencies, got {named}")
    raise UserError(
        "realtime=true needs realtime.latency_ms, realtime.from, or the same run without it, "
        f"finished and with latencies: {own_run} has none"
    )


class Timeline:
    """What the robot of one episode does, query by query.

    Args:
        delay: query's index -> its delay in steps.
        lead: see `Delays`.
        hold: the last action -> one that keeps the robot where that sent it.
    """

    def __init__(
        self, delay: Callable[[int], int], lead: int, hold: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        self.delay, self.lead, self.hold = delay, lead, hold
        self.n_queries = 0
        self.chunk = np.empty((0, 0))
        self.age = 0

    def execute(self, actions: np.ndarray) -> np.ndarray:
        """Ask now.

        Args:
            actions: (n, action_dim), the answer.

        Returns:
            (k, action_dim), k > 0: what is done until the next query is asked.
        """
        delay = self.delay(self.n_queries) if self.n_queries else 0
        length = max(delay, len(actions) - self.lead, 1)
        done = [self._at(self.chunk, self.age + t) for t in range(delay)]
        done += [self._at(actions, t) for t in range(delay, length)]
        self.chunk, self.age = actions, length
        self.n_queries += 1
        return np.array(done)

    def _at(self, chunk: np.ndarray, step: int) -> np.ndarray:
        return np.asarray(chunk[step] if step < len(chunk) else self.hold(chunk[-1]))
