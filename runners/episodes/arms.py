"""Policies that are asked the same queries in turn, and what each query took.

Policies that see images are asked for the two stages of a query too, each in a call of its own
after the whole: what these take together is to be what the whole takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from skipstep.observations import Arrays, n_rows, take

from ..studies.cost import STAGES
from .loop import Acting, query_noise
from .observed import sees_images, tensors
from .two_clocks import Clocks, Times, timed

ACCELERATED, PLAIN, ENGINE = "accelerated", "plain", "engine"
STAGED = (ACCELERATED, PLAIN)  # arms whose stages are measured


@dataclass
class Arms:
    """Policies that are asked the same queries, and what each query took.

    Attributes:
        policies: by name.
        observations: (n, n_obs_steps, obs_dim), one a query, again from the first after the last;
            or a mapping of such arrays.
        device: synchronised around each query.
        clocks: where times come from.
        times: of the queries that count.
        stages: {arm: {"encode_ms" and "denoise_ms": of the same queries}}, of those in `STAGED`
            whose policy sees images.
    """

    policies: Mapping[str, Acting]
    observations: Arrays
    device: str
    clocks: Clocks
    times: dict[str, Times] = field(default_factory=dict)
    stages: dict[str, dict[str, Times]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.times = {name: Times([], []) for name in self.policies}
        self.stages = {
            name: {key: Times([], []) for key in STAGES.values()}
            for name in STAGED
            if sees_images(self.policies[name])
        }

    def ask(self, name: str, query: int) -> None:
        row = query % n_rows(self.observations)
        obs = tensors(take(self.observations, slice(row, row + 1)))
        noise = query_noise(0, 0, query)
        self._time(self.times[name], lambda: self.policies[name].act(obs, [noise]))
        if name in self.stages:
            self._ask_stages(name, obs, query)

    def _ask_stages(self, name: str, obs: Arrays, query: int) -> None:
        policy: Any = self.policies[name]
        encode, denoise = self.stages[name].values()
        cond = self._time(encode, lambda: policy.encode(obs))
        noise = query_noise(0, 0, query)
        self._time(denoise, lambda: policy.denoise(cond, [noise]))

    def _time(self, times: Times, call: Callable[[], Any]) -> Any:
        """What a call returns; how long it took goes to `times`."""
        returned: list[Any] = []
        wall, cpu = timed(lambda: returned.append(call()), self.clocks, self._sync)
        times.wall_ms.append(wall)
        times.cpu_ms.append(cpu)
        return returned[0]

    def turn(self, queries: Sequence[int], backwards: bool) -> None:
        """The accelerated arm's queries, and the first of them by every other arm."""
        asked = [(ACCELERATED, query) for query in queries]
        asked += [(name, queries[0]) for name in self.policies if name != ACCELERATED]
        for name, query in reversed(asked) if backwards else asked:
            self.ask(name, query)

    def _sync(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()


def summary(times: Times, n_action_steps: int) -> dict[str, float]:
    """Percentiles of latencies, and what control rate the median allows."""
    p50, p95, p99 = np.percentile(times.wall_ms, [50, 95, 99])
    return {
        "mean_ms": float(np.mean(times.wall_ms)),
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "queries_hz": 1000 / float(p50),
        "actions_hz": 1000 * n_action_steps / float(p50),
        "cpu_p50_ms": float(np.median(times.cpu_ms)),
    }


def stage_summary(stages: Mapping[str, Times]) -> dict[str, dict[str, float]]:
    """{"encode_ms" and "denoise_ms": percentiles in milliseconds}."""
    found = {}
    for key, times in stages.items():
        p50, p95, p99 = np.percentile(times.wall_ms, [50, 95, 99]).tolist()
        mean, cpu = float(np.mean(times.wall_ms)), float(np.median(times.cpu_ms))
        found[key] = {"mean": mean, "p50": p50, "p95": p95, "p99": p99, "cpu_p50": cpu}
    return found
