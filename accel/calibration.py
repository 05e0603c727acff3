"""What the branches of one policy do over the steps of a query: the ground of calibrated caches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .plan import Site

METRICS = ("cos", "mse", "l1", "l2")


@dataclass(frozen=True)
class Calibration:
    """Statistics of branch outputs over calibration queries; live tokens only.

    A feature is one branch output of one query at one step, flattened over (tokens, width).

    Attributes:
        sites: in the order in which the network runs them.
        policy: fingerprint of the policy (weights and sampler) that was observed.
        n_queries: how many queries were averaged.
        similarity: {metric: (n_sites, N, N) float64}, means over queries of the features of steps
            i and j compared: cos is the cosine (1 for two zero features, 0 for one), mse and l1
            are means over elements, l2 is the norm of the difference.
        spread: the same, standard deviations over queries.
        volatility: (n_sites,) float64, mean of |r_i - r_j| over queries, pairs i < j and elements.
        gram: (n_sites, N, N) float64, mean over queries of <r_i, r_j>.
        mean: (n_sites, N, live tokens, width) float32, mean feature over queries.
        source: where the queries came from, for people and for the file.
    """

    sites: tuple[Site, ...]
    policy: str
    n_queries: int
    similarity: dict[str, np.ndarray]
    spread: dict[str, np.ndarray]
    volatility: np.ndarray
    gram: np.ndarray
    mean: np.ndarray
    source: dict[str, Any]
