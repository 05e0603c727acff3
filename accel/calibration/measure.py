"""Measuring a policy: statistics of its queries, all at first, or those that a cache lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from skipstep.observations import n_rows, take

from ..plans.able import check_branches
from ..plans.decisions import normed
from ..plans.plan import PlanError
from ..plans.sites import sites_of
from ..protocol import Observation, Transparent
from .branch_outputs import live_tokens, observe
from .calibration import MIN_QUERIES, Calibration
from .statistics import STANDARD, STATISTICS, Asked, Extent, Observer, Seen


def calibrate(
    policy: Transparent,
    observations: Observation,
    noise: Sequence[torch.Generator],
    batch: int = 8,
    progress: bool = True,
    source: dict[str, Any] | None = None,
    statistics: Sequence[str] = STANDARD,
) -> Calibration:
    """Observe the plain policy on queries like those it will get.

    Cosines, distances and volatility as in BAC (Ji et al. 2025, arXiv 2506.13456); unlike the
    released code, one pass without storing features, averaged query by query, on tokens that can
    influence an executed action only. Some of the queries are then run again, stale in one stretch
    of steps after the other, for `Calibration.sensitivity`.

    Args:
        policy: in eval mode, with the sampler it will be accelerated under.
        observations: (M, n_obs_steps, obs_dim) or a mapping of arrays, M >= 8, from several
            episodes and their phases.
        noise: one CPU generator per query.
        batch: queries that are observed at once; each takes n_sites x N x live tokens x width
            float32 while it is compared, and changes results to rounding only.
        progress: show a bar where there is a terminal.
        source: of the queries, kept in the calibration.
        statistics: names in `STATISTICS`; fewer serve fewer caches.

    Raises:
        ValueError: fewer than 8 queries, another shape than the policy's, an unknown statistic, or
            a UNet.
        RuntimeError: the policy is in training mode.
        FloatingPointError: an output is not finite; names the site and the step.
    """
    check_branches(policy, "a calibration")
    if n_rows(observations) < MIN_QUERIES:
        raise ValueError(
            f"calibration needs at least {MIN_QUERIES} queries, got {n_rows(observations)}"
        )
    arrays = measure(policy, observations, noise, statistics, {}, batch, progress)
    return Calibration(
        sites=sites_of(policy),
        policy=policy.fingerprint(),
        extent=_extent(policy, n_rows(observations)),
        arrays=arrays,
        source=source or {},
        first=tuple(statistics),
    )


def complete(
    calibration: Calibration,
    policy: Transparent,
    observations: Observation,
    noise: Sequence[torch.Generator],
    needs: Sequence[str],
    batch: int = 8,
    progress: bool = True,
) -> Calibration:
    """The calibration and those of `needs` that it lacks, measured on its own queries.

    Raises:
        PlanError: another policy, or another number of queries. Else as `calibrate`.
    """
    missing = calibration.lacks(needs)
    if not missing:
        return calibration
    calibration.check(policy)
    if n_rows(observations) != calibration.n_queries:
        raise PlanError(
            f"the calibration is of {calibration.n_queries} queries, got {n_rows(observations)}: "
            f"{', '.join(missing)} must be measured on the same"
        )
    known = calibration.arrays
    return calibration.with_added(
        measure(policy, observations, noise, missing, known, batch, progress)
    )


def measure(
    policy: Transparent,
    observations: Observation,
    noise: Sequence[torch.Generator],
    statistics: Sequence[str],
    known: Mapping[str, np.ndarray],
    batch: int = 8,
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """The arrays of some statistics, arguments as of `calibrate`; `known` ones may be read."""
    check_names(statistics)
    if isinstance(noise, torch.Generator):
        raise ValueError("noise must hold one generator per query, got a single one")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    policy.check(observations, noise)
    read = {n for name in statistics for n in STATISTICS[name].after}
    have = {name.partition(".")[0] for name in known}
    names = sorted({*statistics, *(read - have)}, key=list(STATISTICS).index)
    observers = {name: STATISTICS[name].observer() for name in names}
    states = [generator.get_state() for generator in noise]
    n, cond = n_rows(observations), encoded(policy, observations, batch)
    actions, hidden = [], None if progress else True  # None: a bar where there is a terminal
    with tqdm(total=n, desc="calibration", unit="query", disable=hidden) as bar:
        for start in range(0, n, batch):
            rows = slice(start, start + batch)
            actions.append(_observed(policy, cond[rows], noise[rows], observers))
            bar.update(len(actions[-1]))
    for generator, state in zip(noise, states, strict=True):
        generator.set_state(state)
    asked = Asked(policy, cond, noise, torch.cat(actions), batch, progress)
    found: dict[str, np.ndarray] = {}
    for observer in observers.values():
        found |= observer.arrays(asked, {**known, **found})
    return {n: a for n, a in found.items() if n.partition(".")[0] in statistics}


def encoded(policy: Transparent, observations: Observation, batch: int) -> Tensor:
    """(M, n_obs_steps, cond_dim): what the network is told of observations, `batch` at once."""
    rows = (slice(n, n + batch) for n in range(0, n_rows(observations), batch))
    return torch.cat([policy.encode(take(observations, part)) for part in rows])


def check_names(statistics: Sequence[str]) -> None:
    """ValueError where one is not in `STATISTICS`."""
    for name in statistics:
        if name not in STATISTICS:
            raise ValueError(f"a statistic must be one of {', '.join(STATISTICS)}, got {name!r}")


def _observed(
    policy: Transparent,
    cond: Tensor,
    noise: Sequence[torch.Generator],
    observers: Mapping[str, Observer],
) -> Tensor:
    """The actions of a batch, whose features are gone before the next is allocated."""
    with torch.inference_mode():
        with normed(policy) as inputs:
            actions, features = observe(policy, cond, noise)
        for row, feature in enumerate(features):
            query = Seen(policy, feature, torch.stack([values[row] for values in inputs]))
            for observer in observers.values():
                observer.see(query)
    return actions


def _extent(policy: Transparent, n_queries: int) -> Extent:
    sizes = policy.sizes
    return Extent(
        n_queries=n_queries,
        n_steps=policy.n_inference_steps,
        n_sites=len(sites_of(policy)),
        n_layers=sizes.n_layer,
        n_tokens=live_tokens(policy),
        width=sizes.n_emb,
    )
