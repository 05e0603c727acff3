"""Latency in the loop: the simulator goes on while the policy thinks.

A query asked at step q with a delay of d steps is answered at step q + d; its actions are those
of the steps from q on, so the first d come too late and are dropped. The policy returns d more for
that, as far as its horizon reaches (n_latency_steps of real-stanford/diffusion_policy's runners
and configurations). Until then the earlier chunk goes on, and after its end the robot holds.
Differences: the first query is answered before the episode's first step, the world being at rest; a
delay that the horizon has no room for asks earlier, and beyond half a chunk leaves gaps, which are
held, where the reference would need several queries at once; delays may vary from query to query.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

STREAM = 1  # apart from the noise, which has the same three numbers


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


class Timeline:
    """What the robot of one episode does, query by query.

    Args:
        delay: query's index -> its delay in steps.
        lead: see `Delays`.
        hold: the last action -> one that keeps the robot where that sent it.

    Attributes:
        sources: (k,) of the steps that `execute` returned last: the query that answered each.
    """

    def __init__(
        self, delay: Callable[[int], int], lead: int, hold: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        self.delay, self.lead, self.hold = delay, lead, hold
        self.n_queries = 0
        self.chunk = np.empty((0, 0))
        self.age = 0
        self.sources = np.empty(0, np.int64)

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
        self.sources = np.repeat([self.n_queries - 1, self.n_queries], [delay, length - delay])
        self.chunk, self.age = actions, length
        self.n_queries += 1
        return np.array(done)

    def _at(self, chunk: np.ndarray, step: int) -> np.ndarray:
        return np.asarray(chunk[step] if step < len(chunk) else self.hold(chunk[-1]))
