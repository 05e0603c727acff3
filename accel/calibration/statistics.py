"""What can be measured of the plain policy's queries, each under a name that caches ask for.

Whoever adds an entry to `STATISTICS` leaves all others, and the files that hold them, as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..plans.decisions import probe_changes, time_tokens
from ..protocol import Transparent
from .branch_outputs import Moments, compare, depth_changes, layer_gram, squared_distances
from .sensitivity import measure_sensitivity

METRICS = ("cos", "mse", "l1", "l2")
N_REPLAYED = 16
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Extent:
    """Sizes of what was measured.

    Attributes:
        n_queries, n_steps: how many were observed, and the sampler's.
        n_sites, n_layers: of the network.
        n_tokens, width: of a feature, live tokens only.
    """

    n_queries: int
    n_steps: int
    n_sites: int
    n_layers: int
    n_tokens: int
    width: int


class Seen:
    """One query of the plain policy.

    Attributes:
        policy: that was asked.
        features: (n_sites, N, live tokens, width) float32, what every branch put out.
        inputs: (N, tokens, width), the first normalised input of every step.
    """

    def __init__(self, policy: Transparent, features: Tensor, inputs: Tensor) -> None:
        self.policy, self.features, self.inputs = policy, features, inputs
        self.flat = features.flatten(2)

    @cached_property
    def compared(self) -> Arrays:
        """See `compare`."""
        return compare(self.flat)

    @cached_property
    def depth(self) -> np.ndarray:
        """See `depth_changes`."""
        return depth_changes(self.flat, self.policy.sizes.n_layer)

    @cached_property
    def layers(self) -> np.ndarray:
        """See `layer_gram`."""
        return layer_gram(self.flat, self.policy.sizes.n_layer)

    @cached_property
    def probe(self) -> np.ndarray:
        """See `probe_changes`."""
        live = self.features.shape[2]
        time = time_tokens(self.policy)
        return np.asarray(probe_changes(self.inputs[None], live, time)[0])


@dataclass(frozen=True)
class Asked:
    """All queries, for statistics that run some of them again.

    Attributes:
        policy: in eval mode.
        cond: (M, n_obs_steps, cond_dim), what `policy.encode` gave.
        noise: one generator per query, as it was before the query.
        actions: (M, n_action_steps, action_dim), the plain policy's.
        batch, progress: as `calibrate` has them.
    """

    policy: Transparent
    cond: Tensor
    noise: Sequence[torch.Generator]
    actions: Tensor
    batch: int
    progress: bool


class Observer(Protocol):
    """Measures one statistic."""

    def see(self, query: Seen) -> None:
        """Take notice of a query."""

    def arrays(self, asked: Asked, found: Mapping[str, np.ndarray]) -> Arrays:
        """What it amounts to; `found` has the arrays of `Statistic.after`."""


@dataclass(frozen=True)
class Statistic:
    """Something that is measured.

    Attributes:
        observer: makes one for some queries.
        shapes: of its arrays, {name: (dtype, shape)}; each is named as the statistic, or as that, a
            dot and more.
        after: statistics that it reads.
    """

    observer: Callable[[], Observer]
    shapes: Callable[[Extent], dict[str, tuple[Any, tuple[int, ...]]]]
    after: tuple[str, ...] = ()


class Mean:
    """Means over queries, {name: array}, and of those in `deviations` standard deviations."""

    def __init__(self, of: Callable[[Seen], Mapping[str, np.ndarray]], deviations: bool = False):
        self.of, self.deviations, self.moments = of, deviations, dict[str, Moments]()

    def see(self, query: Seen) -> None:
        for name, values in self.of(query).items():
            self.moments.setdefault(name, Moments()).add(values)

    def arrays(self, asked: Asked, found: Mapping[str, np.ndarray]) -> Arrays:
        return {n: m.std if self.deviations else m.mean for n, m in self.moments.items()}


class Volatility(Mean):
    """Mean distance of two steps, over pairs of them."""

    def arrays(self, asked: Asked, found: Mapping[str, np.ndarray]) -> Arrays:
        l1 = self.moments["volatility"].mean
        upper = np.triu_indices(l1.shape[1], 1)
        return {"volatility": l1[:, *upper].mean(axis=1) if len(upper[0]) else np.zeros(len(l1))}


class Rows:
    """A row of every query."""

    def __init__(self, name: str, of: Callable[[Seen], np.ndarray]) -> None:
        self.name, self.of, self.rows = name, of, list[np.ndarray]()

    def see(self, query: Seen) -> None:
        self.rows.append(self.of(query))

    def arrays(self, asked: Asked, found: Mapping[str, np.ndarray]) -> Arrays:
        return {self.name: np.array(self.rows)}


class MeanFeature:
    """The mean of every feature, summed where the policy is."""

    def __init__(self) -> None:
        self.n, self.total = 0, torch.zeros(())

    def see(self, query: Seen) -> None:
        if not self.n:
            self.total = torch.zeros_like(query.features, dtype=torch.float64)
        self.total += query.features
        self.n += 1

    def arrays(self, asked: Asked, found: Mapping[str, np.ndarray]) -> Arrays:
        return {"mean": (self.total / self.n).float().cpu().numpy()}


class Sensitivity:
    """See `measure_sensitivity`; some of the queries are run again."""

    def see(self, query: Seen) -> None:
        pass

    def arrays(self, asked: Asked, found: Mapping[str, np.ndarray]) -> Arrays:
        n = len(asked.cond)
        chosen = np.linspace(0, n - 1, min(n, N_REPLAYED)).astype(int)
        sensitivity = measure_sensitivity(
            asked.policy,
            asked.cond[chosen],
            [asked.noise[row] for row in chosen],
            asked.actions[chosen],
            squared_distances(found["stream"].sum(axis=(0, 2))),
            asked.batch,
            asked.progress,
        )
        return {"sensitivity": sensitivity}


def _compared(group: str, query: Seen) -> Arrays:
    return {f"{group}.{name}": query.compared[name] for name in METRICS}


def _response(query: Seen) -> np.ndarray:
    return np.concatenate([[0.0], query.depth[-1].diagonal(1)])


def _shape(name: str, *sizes: str, dtype: Any = np.float64) -> Callable[[Extent], dict[str, Any]]:
    return lambda e: {name: (np.dtype(dtype), tuple(getattr(e, size) for size in sizes))}


def _grids(group: str) -> Callable[[Extent], dict[str, Any]]:
    return lambda e: {
        f"{group}.{name}": (np.dtype(np.float64), (e.n_sites, e.n_steps, e.n_steps))
        for name in METRICS
    }


STATISTICS: dict[str, Statistic] = {
    "similarity": Statistic(lambda: Mean(partial(_compared, "similarity")), _grids("similarity")),
    "spread": Statistic(lambda: Mean(partial(_compared, "spread"), True), _grids("spread")),
    "volatility": Statistic(
        lambda: Volatility(lambda query: {"volatility": query.compared["l1"]}),
        _shape("volatility", "n_sites"),
    ),
    "gram": Statistic(
        lambda: Mean(lambda query: {"gram": query.compared["gram"]}),
        _shape("gram", "n_sites", "n_steps", "n_steps"),
    ),
    "mean": Statistic(
        MeanFeature,
        _shape("mean", "n_sites", "n_steps", "n_tokens", "width", dtype=np.float32),
    ),
    "stream": Statistic(
        lambda: Mean(lambda query: {"stream": query.layers}),
        _shape("stream", "n_layers", "n_steps", "n_layers", "n_steps"),
    ),
    "sensitivity": Statistic(Sensitivity, _shape("sensitivity", "n_steps"), after=("stream",)),
    "probe": Statistic(
        lambda: Rows("probe", lambda query: query.probe), _shape("probe", "n_queries", "n_steps")
    ),
    "response": Statistic(
        lambda: Rows("response", _response), _shape("response", "n_queries", "n_steps")
    ),
    "depth_change": Statistic(
        lambda: Mean(lambda query: {"depth_change": query.depth}),
        _shape("depth_change", "n_layers", "n_steps", "n_steps"),
    ),
}
STANDARD = tuple(STATISTICS)  # what every calibration holds from the start; what is added is not
