"""Transformers: their residual branches are sites, and what those cost.

Softmax and norms are not counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .record import Costs, Family, Site

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..protocol import Accelerable, NetworkSizes, Transparent


def branches(sizes: Any) -> tuple[Site, ...]:
    """self-attention, cross-attention and feed-forward of each layer of the main stack."""
    stack = "encoder" if sizes.encoder_only else "decoder"
    return tuple(
        Site(f"{stack}.layers.{layer}.{op}", op)
        for layer in range(sizes.n_layer)
        for op in sizes.branches
    )


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


def fused_flops(policy: Transparent, computed: np.ndarray) -> int:
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


def time_tokens(policy: Transparent) -> Tensor | None:
    """(N, n_emb) the time token that cross-attention sees; None where it is in the stream.

    Where a condition encoder mixes tokens, the token as it enters it: it then needs no observation.
    """
    if policy.sizes.encoder_only:
        return None
    with torch.inference_mode():
        model = policy.model
        times = torch.as_tensor(policy.table.timesteps, device=policy.device)
        token: Tensor = model.time_emb(times) + model.cond_pos_emb[0, :1]
        return token if policy.sizes.n_cond_layers else model.encoder(token)


def first_norm(policy: Transparent) -> nn.Module:
    """That of the first layer's self-attention."""
    model = policy.model
    stack = model.encoder if policy.sizes.encoder_only else model.decoder
    found: nn.Module = stack.layers[0].norm1
    return found


TRANSFORMER = Family(
    called="a transformer",
    sites=branches,
    costs=Costs(branch_costs, lambda p: memory_flops(p) + embedding_flops(p), fused_flops),
    engines=("fused", "reference"),
    stack="layers",
    calibratable=True,
    first=first_norm,
    time=time_tokens,
    quantizable=True,
    tokens=True,
    caches=(
        *("none", "uniform", "bac", "hash_ab", "interval", "deepcache", "taylor", "teacache"),
        *("first_block", "plan"),
    ),
)
