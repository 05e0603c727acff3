"""Queries on which a policy is observed: real ones, spread over episodes and their phases."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hydra.errors import CompactHydraException

from accel.calibration.calibration import MIN_QUERIES
from skipstep.observation_arrays import arrays_of, obs_in
from skipstep.observations import Arrays, as_seen, n_rows, stacked, take
from skipstep.whole_files import replacing

from .loop import query_noise

log = logging.getLogger(__name__)


class TooFewQueriesError(CompactHydraException):
    """The episodes do not hold enough queries: a failure in one line, exit code 1."""


@dataclass(frozen=True, eq=False)
class Queries:
    """Observations that a policy is asked about, and what makes their noise.

    Attributes:
        obs: (M, n_obs_steps, obs_dim) float32; or a mapping of such arrays, images uint8.
        seeds: (M,) of the episodes; of demonstrations: their numbers in the dataset.
        numbers: (M,) which query of its episode each is; of demonstrations: the step.
    """

    obs: Arrays
    seeds: np.ndarray
    numbers: np.ndarray

    def __len__(self) -> int:
        return n_rows(self.obs)

    def noise(self, noise_seed: int) -> list[torch.Generator]:
        """The noise that these queries have in an evaluation."""
        pairs = zip(self.seeds.tolist(), self.numbers.tolist(), strict=True)
        return [query_noise(noise_seed, seed, number) for seed, number in pairs]

    def save(self, path: Path) -> None:
        """Write by rename."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays_of(self.obs), seeds=self.seeds, numbers=self.numbers)

    @classmethod
    def load(cls, path: Path) -> Queries:
        with np.load(path) as file:
            return cls(obs_in(file), file["seeds"], file["numbers"])


def spread(counts: Sequence[int], n: int) -> list[tuple[int, int]]:
    """About equally many queries of every episode, evenly over its length.

    Args:
        counts: queries of each episode.
        n: queries wanted; all are taken where there are fewer.

    Returns:
        (episode, query) in order.
    """
    shares = [0] * len(counts)
    for _ in range(min(n, sum(counts))):
        open_ones = [e for e, count in enumerate(counts) if shares[e] < count]
        shares[min(open_ones, key=lambda e: shares[e])] += 1
    return [
        (episode, int((i + 0.5) * count / share))
        for episode, (count, share) in enumerate(zip(counts, shares, strict=True))
        for i in range(share)
    ]


def choose_queries(seeds: Sequence[int], observed: Sequence[Arrays], n: int) -> Queries:
    """Queries out of what every episode's policy saw, (n_queries, n_obs_steps, ...) each array."""
    chosen = spread([n_rows(o) for o in observed], n)
    if len(chosen) < MIN_QUERIES:
        raise TooFewQueriesError(
            f"{len(observed)} episodes hold {len(chosen)} queries, a calibration needs at least "
            f"{MIN_QUERIES}: raise calibration.n_episodes, or name more seeds"
        )
    if len(chosen) < n:
        log.warning("calibration.n_queries=%d: the episodes hold %d, all are used", n, len(chosen))
    return Queries(
        obs=as_seen(stacked([take(observed[e], q) for e, q in chosen])),
        seeds=np.array([seeds[e] for e, _ in chosen], dtype=np.int64),
        numbers=np.array([q for _, q in chosen], dtype=np.int64),
    )
