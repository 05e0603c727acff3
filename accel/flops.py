"""Analytic FLOPs of a query, 2 per multiply-add, from the cells that ran.

Softmax, norms and the sampler are not counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .protocol import Accelerable


def site_flops(kind: str, n: int, m: int, dim: int) -> int:
    """One residual branch of one row: n tokens, m memory tokens, width dim."""
    return {
        "sa": 8 * n * dim**2 + 4 * n**2 * dim,
        "ca": 4 * n * dim**2 + 4 * m * dim**2 + 4 * n * m * dim,
        "ff": 16 * n * dim**2,
    }[kind]


def memory_flops(policy: Accelerable) -> int:
    """The condition encoder of one denoising call."""
    sizes, m = policy.sizes, policy.sizes.n_memory
    if not sizes.n_cond_layers:
        return 16 * m * sizes.n_emb**2
    layer = site_flops("sa", m, 0, sizes.n_emb) + site_flops("ff", m, 0, sizes.n_emb)
    return sizes.n_cond_layers * layer


def embedding_flops(policy: Accelerable) -> int:
    """Input, observation embeddings and head of one denoising call."""
    sizes, n = policy.sizes, policy.n_tokens
    ends = 2 * n * sizes.n_emb * (sizes.input_dim + sizes.output_dim)
    return ends + 2 * sizes.n_obs_steps * sizes.cond_dim * sizes.n_emb


def query_flops(policy: Accelerable, computed: np.ndarray) -> int:
    """FLOPs of one query of one row.

    Args:
        policy: for its sizes.
        computed: (N, n_sites) how often each cell was computed in the query (0 or 1; a mean over
            queries is fine).
    """
    sizes = policy.sizes
    each = [
        site_flops(kind, policy.n_tokens, sizes.n_memory, sizes.n_emb) for kind in sizes.branches
    ]
    sites = np.tile(each, sizes.n_layer)
    fixed = len(computed) * (memory_flops(policy) + embedding_flops(policy))
    return round(float(computed.sum(axis=0) @ sites)) + fixed
