"""Analytic FLOPs of a query, 2 per multiply-add, from the cells that ran.

Softmax, norms and the sampler are not counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .protocol import Accelerable, Transparent


def site_flops(kind: str, n: int, m: int, dim: int) -> int:
    """One residual branch of one row: n tokens, m memory tokens, width dim."""
    return {
        "sa": 8 * n * dim**2 + 4 * n**2 * dim,
        "ca": 4 * n * dim**2 + 4 * m * dim**2 + 4 * n * m * dim,
        "ff": 16 * n * dim**2,
    }[kind]


def site_costs(policy: Accelerable) -> np.ndarray:
    """(n_sites,) FLOPs of each residual branch of one row, all tokens."""
    sizes = policy.sizes
    each = [
        site_flops(kind, policy.n_tokens, sizes.n_memory, sizes.n_emb) for kind in sizes.branches
    ]
    return np.tile(each, sizes.n_layer)


def memory_flops(policy: Accelerable) -> int:
    """The condition encoder of one denoising call."""
    sizes, m = policy.sizes, policy.sizes.n_memory
    if not sizes.n_cond_layers:
        return 16 * m * sizes.n_emb**2
    layer = site_flops("sa", m, 0, sizes.n_emb) + site_flops("ff", m, 0, sizes.n_emb)
    return sizes.n_cond_layers * layer


def embedding_flops(policy: Accelerable) -> int:
    """Input, observation embeddings and head of one denoising call."""
    sizes, n = policy.sizes, policy.n_tokens - policy.sizes.encoder_only
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


def query_flops(policy: Accelerable, computed: np.ndarray) -> int:
    """FLOPs of one query of one row.

    Args:
        policy: for its sizes.
        computed: (N, n_sites) how often each cell was computed in the query (0 or 1; a mean over
            queries is fine).
    """
    fixed = len(computed) * (memory_flops(policy) + embedding_flops(policy))
    return round(float(computed.sum(axis=0) @ site_costs(policy))) + fixed


def flops_by_step(policy: Accelerable, computed: np.ndarray) -> dict[str, np.ndarray]:
    """What `query_flops` adds up, by kind of branch and denoising step.

    Returns:
        {"sa" | "ca" | "ff" | "rest": (N,) float64}; rest is the condition encoder, the embeddings
        and the head, which a cache does not save.
    """
    sizes, width = policy.sizes, len(policy.sizes.branches)
    parts = {
        kind: computed[:, index::width].sum(axis=1, dtype=np.float64)
        * site_flops(kind, policy.n_tokens, sizes.n_memory, sizes.n_emb)
        for index, kind in enumerate(sizes.branches)
    }
    rest = float(memory_flops(policy) + embedding_flops(policy))
    return {**parts, "rest": np.full(len(computed), rest)}
