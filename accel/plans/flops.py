"""Analytic FLOPs of a query, 2 per multiply-add, from the cells that ran.

What a site costs is in the record of a policy's family; the sampler is not counted. Of a family
whose record has no costs they are None. What a query spends once, on encoding images, is counted
apart (`encode_flops`), and shares are of both together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..families import Costs, family_of
from .sites import sites_of

if TYPE_CHECKING:
    from ..protocol import Accelerable


def costs_of(policy: Accelerable) -> Costs:
    """FLOPs of a policy's network, for what cannot do without.

    Raises:
        ValueError: they are not known.
    """
    family = family_of(policy)
    if family.costs is None:
        raise ValueError(f"the FLOPs of {family.called} are not known")
    return family.costs


def site_costs(policy: Accelerable) -> np.ndarray:
    """(n_sites,) FLOPs of each site of one row, all tokens, without the sites inside of it."""
    return costs_of(policy).sites(policy)


def live_flops(policy: Accelerable, computed: np.ndarray) -> int | None:
    """FLOPs of one query of one row in the fused engine, arguments as in `query_flops`.

    None where that does not run the network.
    """
    known = family_of(policy).costs
    return None if known is None or known.fused is None else known.fused(policy, computed)


def equivalent_steps(policy: Accelerable, computed: np.ndarray) -> float | None:
    """Steps of the whole network that cost as much as cells, arguments as in `query_flops`."""
    if not computed.shape[1]:
        return float(len(computed))
    if family_of(policy).costs is None:
        return None
    costs = site_costs(policy)
    return float(computed.sum(axis=0) @ costs / costs.sum())


def query_flops(policy: Accelerable, computed: np.ndarray) -> int | None:
    """FLOPs of one query of one row.

    Args:
        policy: for its sizes.
        computed: (N, n_sites) how often each cell was computed in the query (0 or 1; a mean over
            queries is fine).
    """
    known = family_of(policy).costs
    if known is None:
        return None
    cells = round(float(computed.sum(axis=0) @ known.sites(policy)))
    return cells + len(computed) * known.rest(policy)


def plain_flops(policy: Accelerable) -> int | None:
    """FLOPs of one query of one row with nothing accelerated, all tokens."""
    n_sites = len(sites_of(policy))
    return query_flops(policy, np.ones((policy.n_inference_steps, n_sites)))


def encode_flops(policy: Accelerable) -> int | None:
    """FLOPs of encoding what one row sees, once a query; None where no network encodes it."""
    found: int = getattr(policy, "encode_flops", 0)
    return found or None


def share_of(flops: float | None, policy: Accelerable, of: Accelerable) -> float | None:
    """What a query costs of what it costs with nothing accelerated, encoding included in both.

    Args:
        flops: of the query's denoising, for one row; None where they are not known.
        policy: that ran.
        of: the checkpoint's policy with the checkpoint's own sampler.
    """
    plain = plain_flops(of)
    if flops is None or plain is None:
        return None
    return (flops + (encode_flops(policy) or 0)) / (plain + (encode_flops(of) or 0))


def flops_share(policy: Accelerable, computed: np.ndarray, of: Accelerable) -> float | None:
    """What a project means by a share of FLOPs, wherever it shows one.

    The cells that were computed, over all tokens and every stage of the network, and the encoding
    of images before them, divided by the same of `of`, with nothing accelerated. It is not a
    speed-up: an engine may leave out tokens (`live_flops`), and a clock says something else again.

    Args:
        policy: as it ran, with the sampler that it ran with.
        computed: as in `query_flops`; where rows choose, the mean over queries.
        of: the checkpoint's policy with the checkpoint's own sampler, so that 12 steps in place of
            100 are 12 % where nothing is encoded.
    """
    return share_of(query_flops(policy, computed), policy, of)


def flops_by_step(policy: Accelerable, computed: np.ndarray) -> dict[str, np.ndarray]:
    """What `query_flops` adds up, by operation and denoising step.

    Returns:
        {"sa" | "ca" | "ff" | "deep" | "rest": (N,) float64}; rest is what a cache does not save:
        the condition encoder, the embeddings and the head, or the shallow part of a UNet. Empty
        where they are not known.
    """
    if family_of(policy).costs is None:
        return {}
    ops, costs = np.array([site.op for site in sites_of(policy)]), site_costs(policy)
    parts = {
        str(op): (computed[:, ops == op] @ costs[ops == op]).astype(np.float64)
        for op in dict.fromkeys(ops.tolist())
    }
    rest = float(costs_of(policy).rest(policy))
    return {**parts, "rest": np.full(len(computed), rest)}
