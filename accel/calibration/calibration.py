"""What the branches of one policy do over the steps of a query: the ground of calibrated caches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..plans.able import check_branches
from ..plans.plan import PlanError
from ..plans.sites import Site, sites_of
from ..plans.thresholds import normed, time_tokens
from .branch_outputs import (
    Moments,
    compare,
    layer_gram,
    live_tokens,
    observe,
    squared_distances,
)
from .changes import depth_changes, probe_changes
from .sensitivity import measure_sensitivity

if TYPE_CHECKING:
    from ..protocol import Accelerable, Transparent

METRICS = ("cos", "mse", "l1", "l2")
MIN_QUERIES = 8
N_PROBES = 16


@dataclass(frozen=True, eq=False)
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
        spread: the same, standard deviations over queries (of the population: divided by their
            number).
        volatility: (n_sites,) float64, mean of |r_i - r_j| over queries, pairs i < j and elements.
        gram: (n_sites, N, N) float64, mean over queries of <r_i, r_j>.
        mean: (n_sites, N, live tokens, width) float32, mean feature over queries.
        stream: (L, N, L, N) float64, mean over queries of <d_l,i, d_m,j>, where d_l,i is what the
            branches of layer l add in step i, less its mean over steps.
        sensitivity: (N,) float64, squared action error (mean over executed actions, normalised)
            per squared error of the sum over layers, if it is made in step i.
        probe, response: (n_queries, N) float64, changes from the step before, 0 in step 0: of the
            first normalised input together with the time token, and of what all branches add. A
            change is mean |m - m'| / mean |m'|.
        depth_change: (L, N, N) float64, [l, i, j] the mean over queries of the change, from step i
            to step j, of what layers 0 to l add.
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
    stream: np.ndarray
    sensitivity: np.ndarray
    probe: np.ndarray
    response: np.ndarray
    depth_change: np.ndarray
    source: dict[str, Any]

    @property
    def n_steps(self) -> int:
        return int(self.gram.shape[1])

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything measured, by name."""
        return {
            **{f"similarity.{name}": self.similarity[name] for name in METRICS},
            **{f"spread.{name}": self.spread[name] for name in METRICS},
            "volatility": self.volatility,
            "gram": self.gram,
            "mean": self.mean,
            "stream": self.stream,
            "sensitivity": self.sensitivity,
            "probe": self.probe,
            "response": self.response,
            "depth_change": self.depth_change,
        }

    def digest(self) -> str:
        """Hash of what was measured and on what policy (not of where the queries came from)."""
        sites = [f"{s.name} {s.op} {s.kind}" for s in self.sites]
        content = hashlib.sha256("\n".join([self.policy, str(self.n_queries), *sites]).encode())
        for name, array in sorted(self.arrays().items()):
            content.update(f"{name} {array.dtype.str} {array.shape}".encode())
            content.update(np.ascontiguousarray(array).tobytes())
        return content.hexdigest()[:16]

    def check(self, policy: Accelerable) -> None:
        """Refuse a policy that was not the one observed.

        Raises:
            PlanError: other sites, another number of steps, other weights or another sampler.
        """
        if self.sites != sites_of(policy):
            raise PlanError("the calibration is of another network: their sites differ")
        if self.n_steps != policy.n_inference_steps:
            raise PlanError(
                f"the calibration has {self.n_steps} steps, "
                f"the policy's sampler {policy.n_inference_steps}"
            )
        if self.policy != policy.fingerprint():
            raise PlanError(
                "the calibration is of another checkpoint or sampler (fingerprints differ)"
            )

    def save(self, path: str | Path) -> Path:
        """Write JSON and safetensors, see calibration_file.py; returns the path of the JSON."""
        from .file import save_calibration

        return save_calibration(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `save` wrote, a folder or the JSON; `check` refuses another policy."""
        from .file import load_calibration

        return load_calibration(path)


def calibrate(
    policy: Transparent,
    observations: Tensor,
    noise: Sequence[torch.Generator],
    batch: int = 8,
    progress: bool = True,
    source: dict[str, Any] | None = None,
) -> Calibration:
    """Observe the plain policy on queries like those it will get.

    Cosines, distances and volatility as in BAC (Ji et al. 2025, arXiv 2506.13456); unlike the
    released code, one pass without storing features, averaged query by query, on tokens that can
    influence an executed action only. Some of the queries are then run again, stale in one stretch
    of steps after the other, for `Calibration.sensitivity`.

    Args:
        policy: in eval mode, with the sampler it will be accelerated under.
        observations: (M, n_obs_steps, obs_dim), M >= 8, from several episodes and their phases.
        noise: one CPU generator per query.
        batch: queries that are observed at once; each takes n_sites x N x live tokens x width
            float32 while it is compared, and changes results to rounding only.
        progress: show a bar where there is a terminal.
        source: of the queries, kept in the calibration.

    Raises:
        ValueError: fewer than 8 queries, another shape than the policy's, or a UNet.
        RuntimeError: the policy is in training mode.
        FloatingPointError: an output is not finite; names the site and the step.
    """
    check_branches(policy, "a calibration")
    if len(observations) < MIN_QUERIES:
        raise ValueError(
            f"calibration needs at least {MIN_QUERIES} queries, got {len(observations)}"
        )
    if isinstance(noise, torch.Generator):
        raise ValueError("noise must hold one generator per query, got a single one")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    policy.check(observations, noise)
    states = [generator.get_state() for generator in noise]
    matrices = {name: Moments() for name in (*METRICS, "gram", "stream", "depth")}
    plain, probes, responses = [], [], []
    time = time_tokens(policy)
    shape = (len(sites_of(policy)), policy.n_inference_steps)
    total = torch.zeros(
        (*shape, live_tokens(policy), policy.sizes.n_emb),
        dtype=torch.float64,
        device=policy.device,
    )
    hidden = None if progress else True  # None: a bar where there is a terminal
    with tqdm(total=len(observations), desc="calibration", unit="query", disable=hidden) as bar:
        for first in range(0, len(observations), batch):
            rows = slice(first, first + batch)
            with torch.inference_mode():
                with normed(policy) as inputs:
                    actions, features = observe(policy, observations[rows].float(), noise[rows])
                plain.append(actions)
                probes.append(probe_changes(torch.stack(inputs, dim=1), features.shape[3], time))
                for feature in features:
                    for name, matrix in compare(feature.flatten(2)).items():
                        matrices[name].add(matrix)
                    matrices["stream"].add(layer_gram(feature.flatten(2), policy.sizes.n_layer))
                    depth = depth_changes(feature.flatten(2), policy.sizes.n_layer)
                    matrices["depth"].add(depth)
                    responses.append(np.r_[0.0, depth[-1].diagonal(1)])
                    total += feature
                    bar.update()
            del features, feature, inputs  # before the next batch is allocated
    chosen = np.linspace(0, len(observations) - 1, min(len(observations), N_PROBES)).astype(int)
    for row in chosen:
        noise[row].set_state(states[row])
    stream = matrices["stream"].mean
    sensitivity = measure_sensitivity(
        policy,
        observations[chosen].float(),
        [noise[row] for row in chosen],
        torch.cat(plain)[chosen],
        squared_distances(stream.sum(axis=(0, 2))),
        batch,
        progress,
    )
    upper = np.triu_indices(policy.n_inference_steps, 1)
    l1 = matrices["l1"].mean
    return Calibration(
        sites=sites_of(policy),
        policy=policy.fingerprint(),
        n_queries=len(observations),
        similarity={name: matrices[name].mean for name in METRICS},
        spread={name: matrices[name].std for name in METRICS},
        volatility=l1[:, *upper].mean(axis=1) if len(upper[0]) else np.zeros(len(l1)),
        gram=matrices["gram"].mean,
        mean=(total / len(observations)).float().cpu().numpy(),
        stream=stream,
        sensitivity=sensitivity,
        probe=np.concatenate(probes),
        response=np.array(responses),
        depth_change=matrices["depth"].mean,
        source=source or {},
    )
