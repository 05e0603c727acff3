"""DiTs: what each block's attention and feed-forward add is a site, and what those cost.

A site has its half of the block's modulation. Softmax, norms and activations are not counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .record import Costs, Family, Site
from .transformer import TRANSFORMER, site_flops

if TYPE_CHECKING:
    from torch import nn

    from ..protocol import Accelerable


class DitSizes(Protocol):
    """Sizes of a DiT, family "dit".

    seen_dim: width of the vector that modulates every block, of timestep_embed_dim numbers of time
        and all those that are observed.
    """

    @property
    def family(self) -> str: ...

    n_layer: int
    n_emb: int
    input_dim: int
    timestep_embed_dim: int

    @property
    def output_dim(self) -> int: ...

    @property
    def seen_dim(self) -> int: ...

    @property
    def branches(self) -> tuple[str, ...]: ...


def sites(sizes: DitSizes) -> tuple[Site, ...]:
    """Attention and feed-forward of each block."""
    return tuple(
        Site(f"transformer_blocks.{layer}.{op}", op)
        for layer in range(sizes.n_layer)
        for op in sizes.branches
    )


def modulation_flops(sizes: DitSizes) -> int:
    """The half of a block's modulation that belongs to one branch, of one row."""
    return 2 * sizes.seen_dim * 3 * sizes.n_emb


def site_costs(policy: Accelerable) -> np.ndarray:
    """(n_sites,) of what each branch adds."""
    sizes: DitSizes = policy.sizes
    each = [
        site_flops(op, policy.n_tokens, 0, sizes.n_emb) + modulation_flops(sizes)
        for op in sizes.branches
    ]
    return np.tile(each, sizes.n_layer)


def rest_flops(policy: Accelerable) -> int:
    """The embedding of time, the projection of the trajectory, and the head."""
    sizes: DitSizes = policy.sizes
    ends = 2 * policy.n_tokens * sizes.n_emb * (sizes.input_dim + sizes.output_dim)
    return ends + 8 * sizes.timestep_embed_dim**2


def fused_flops(policy: Accelerable, computed: np.ndarray) -> int:
    """FLOPs of one query of one row in the fused engine, arguments as in `query_flops`.

    Differences: what observations say to the blocks once a query, what time says never.
    """
    sizes: DitSizes = policy.sizes
    each = [site_flops(op, policy.n_tokens, 0, sizes.n_emb) for op in sizes.branches]
    total = round(float(computed.sum(axis=0) @ np.tile(each, sizes.n_layer)))
    observed = sizes.seen_dim - sizes.timestep_embed_dim
    once = 2 * observed * 3 * sizes.n_emb * len(sizes.branches) * sizes.n_layer
    ends = 2 * policy.n_tokens * sizes.n_emb * (sizes.input_dim + sizes.output_dim)
    return total + once + len(computed) * ends


def first_modulation(policy: Any) -> nn.Module:
    """What puts out the modulated input of the first block, and its gate."""
    found: nn.Module = policy.model.transformer_blocks[0].attn_modulation
    return found


DIT = Family(
    called="a DiT",
    sites=sites,
    costs=Costs(site_costs, rest_flops, fused_flops),
    engines=("fused", "reference"),
    programs=("native",),
    compiled="call",
    stack="layers",
    calibratable=True,
    quantizable=True,
    tokens=True,
    caches=TRANSFORMER.caches,
    first=first_modulation,
)
