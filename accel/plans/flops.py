"""Analytic FLOPs of a query, 2 per multiply-add, from the cells that ran.

Softmax, norms and the sampler are not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .sites import sites_of
from .unet_flops import level_costs, shallow_flops

if TYPE_CHECKING:
    from ..protocol import Accelerable, NetworkSizes, Transparent


def site_flops(kind: str, n: int, m: int, dim: int) -> int:
    """One residual branch of one row: n tokens, m memory tokens, width dim."""
    return {
        "sa": 8 * n * dim**2 + 4 * n**2 * dim,
        "ca": 4 * n * dim**2 + 4 * m * dim**2 + 4 * n * m * dim,
        "ff": 16 * n * dim**2,
    }[kind]


def branch_costs(policy: Accelerable) -> np.ndarray:
    """(n_sites,) of each residual branch of a transformer."""
    sizes = policy.sizes
    each = [
        site_flops(kind, policy.n_tokens, sizes.n_memory, sizes.n_emb) for kind in sizes.branches
    ]
    return np.tile(each, sizes.n_layer)


def memory_flops(policy: Accelerable) -> int:
    """The condition encoder of one denoising call."""
    sizes: NetworkSizes = policy.sizes
    m = sizes.n_memory
    if not sizes.n_cond_layers:
        return 16 * m * sizes.n_emb**2
    layer = site_flops("sa", m, 0, sizes.n_emb) + site_flops("ff", m, 0, sizes.n_emb)
    return sizes.n_cond_layers * layer


def embedding_flops(policy: Accelerable) -> int:
    """Input, observation embeddings and head of one denoising call."""
    sizes: NetworkSizes = policy.sizes
    n = policy.n_tokens - sizes.encoder_only
    ends = 2 * n * sizes.n_emb * (sizes.input_dim + sizes.output_dim)
    return ends + 2 * sizes.n_obs_steps * sizes.cond_dim * sizes.n_emb


def live_query_flops(policy: Transparent, computed: np.ndarray) -> int:
    """FLOPs of one query of one row in the fused engine, arguments as in `query_flops`.

    Differences: only live tokens; keys, values and condition encoding of observation tokens once a
    query, of the time token never (with a condition encoder: all of it on each step that attends).
    """
    sizes, n, m = policy.sizes, policy.n_live + policy.sizes.encoder_only, policy.sizes.n_memory
    dim, steps = sizes.n_emb, len(computed)
    each = [
        site_flops(op, n, 0, dim) + (4 * n * m * dim if op == "ca" else 0) for op in sizes.branches
    ]
    total = round(float(computed.sum(axis=0) @ np.tile(each, sizes.n_layer)))
    total += steps * 2 * policy.n_live * dim * (sizes.input_dim + sizes.output_dim)
    if sizes.encoder_only:
        return total
    keys_values = 4 * dim**2 * sizes.n_layer
    if sizes.n_cond_layers:
        attends = computed[:, sizes.branches.index("ca") :: len(sizes.branches)].max(axis=1).sum()
        per_step = memory_flops(policy) + m * keys_values
        per_step += 2 * sizes.n_obs_steps * sizes.cond_dim * dim
        return total + round(float(attends) * per_step)
    observed = m - 1
    return total + observed * (16 * dim**2 + keys_values + 2 * sizes.cond_dim * dim)


class Costs(NamedTuple):
    """FLOPs of one row in one denoising call.

    sites: policy -> (n_sites,), each without the sites inside of it.
    rest: policy -> what no cache saves.
    """

    sites: Callable[[Accelerable], np.ndarray]
    rest: Callable[[Accelerable], int]


COSTS: dict[str, Costs] = {
    "transformer": Costs(branch_costs, lambda p: memory_flops(p) + embedding_flops(p)),
    "unet": Costs(level_costs, shallow_flops),
}


def site_costs(policy: Accelerable) -> np.ndarray:
    """(n_sites,) FLOPs of each site of one row, all tokens, without the sites inside of it."""
    return COSTS[policy.sizes.family].sites(policy)


def equivalent_steps(policy: Accelerable, computed: np.ndarray) -> float:
    """Steps of the whole network that cost as much as cells, arguments as in `query_flops`."""
    costs = site_costs(policy)
    return float(computed.sum(axis=0) @ costs / costs.sum())


def query_flops(policy: Accelerable, computed: np.ndarray) -> int:
    """FLOPs of one query of one row.

    Args:
        policy: for its sizes.
        computed: (N, n_sites) how often each cell was computed in the query (0 or 1; a mean over
            queries is fine).
    """
    fixed = len(computed) * COSTS[policy.sizes.family].rest(policy)
    return round(float(computed.sum(axis=0) @ site_costs(policy))) + fixed


def plain_flops(policy: Accelerable) -> int:
    """FLOPs of one query of one row with nothing accelerated, all tokens."""
    n_sites = len(sites_of(policy))
    return query_flops(policy, np.ones((policy.n_inference_steps, n_sites)))


def flops_share(policy: Accelerable, computed: np.ndarray, of: Accelerable) -> float:
    """What a project means by a share of FLOPs, wherever it shows one.

    The cells that were computed, over all tokens and every stage of the network, divided by the
    same of `of`, with nothing accelerated. It is not a speed-up: an engine may leave out tokens
    (`live_query_flops`), and a clock says something else again.

    Args:
        policy: as it ran, with the sampler that it ran with.
        computed: as in `query_flops`; where rows choose, the mean over queries.
        of: the checkpoint's policy with the checkpoint's own sampler, so that 12 steps in place of
            100 are 12 %.
    """
    return query_flops(policy, computed) / plain_flops(of)


def flops_by_step(policy: Accelerable, computed: np.ndarray) -> dict[str, np.ndarray]:
    """What `query_flops` adds up, by operation and denoising step.

    Returns:
        {"sa" | "ca" | "ff" | "deep" | "rest": (N,) float64}; rest is what a cache does not save:
        the condition encoder, the embeddings and the head, or the shallow part of a UNet.
    """
    ops, costs = np.array([site.op for site in sites_of(policy)]), site_costs(policy)
    parts = {
        str(op): (computed[:, ops == op] @ costs[ops == op]).astype(np.float64)
        for op in dict.fromkeys(ops.tolist())
    }
    rest = float(COSTS[policy.sizes.family].rest(policy))
    return {**parts, "rest": np.full(len(computed), rest)}
