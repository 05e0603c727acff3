"""UNets: their levels are sites, each inside of the one before, and what those cost.

Norms, activations and the sampler are not counted; borders of convolutions count like the rest.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .record import Costs, Family, Site

if TYPE_CHECKING:
    from ..protocol import Accelerable

DOWN_KERNEL, UP_KERNEL = 3, 4


class UnetSizes(Protocol):
    """Sizes of a UNet, family "unet".

    obs_as: "global", "local" or "in-painting"; seen_dim: width of what every block is conditioned
        on; cond_predict_scale: whether that scales features as well as shifting them.
    """

    @property
    def family(self) -> str: ...

    input_dim: int
    cond_dim: int
    obs_as: str
    down_dims: list[int]
    diffusion_step_embed_dim: int
    kernel_size: int
    cond_predict_scale: bool

    @property
    def seen_dim(self) -> int: ...


def levels(sizes: UnetSizes) -> tuple[Site, ...]:
    """Everything below each level that has a skip."""
    return tuple(
        Site(f"unet.deep.{level}", "deep", "output") for level in range(1, len(sizes.down_dims))
    )


def block_flops(sizes: UnetSizes, n_in: int, n_out: int, length: int, n_seen: int) -> int:
    """A residual block: two convolutions, the shortcut where widths differ, and the condition.

    n_seen: how many numbers it is conditioned on.
    """
    per_step = sizes.kernel_size * (n_in + n_out) * n_out + (n_in * n_out if n_in != n_out else 0)
    condition = n_seen * n_out * (2 if sizes.cond_predict_scale else 1)
    return 2 * (length * per_step + condition)


def below_flops(policy: Accelerable, n_seen: int) -> list[int]:
    """What lies between a level and the next one, there and back, for each level.

    That is the way down, the next level's own blocks on both sides, and the way up; of the last
    level, the blocks in the middle.
    """
    sizes, dims = policy.sizes, policy.sizes.down_dims
    found = []
    for level, (here, below) in enumerate(pairwise(dims)):
        length = policy.n_tokens >> (level + 1)
        blocks = ((here, below), (below, below), (2 * below, here), (here, here))
        ways = 2 * length * here**2 * (DOWN_KERNEL + UP_KERNEL)
        found.append(ways + sum(block_flops(sizes, *widths, length, n_seen) for widths in blocks))
    deepest = policy.n_tokens >> (len(dims) - 1)
    return [*found, 2 * block_flops(sizes, dims[-1], dims[-1], deepest, n_seen)]


def level_costs(policy: Accelerable) -> np.ndarray:
    """(n_sites,) of what each deep site computes besides the sites inside of it."""
    return np.array(below_flops(policy, policy.sizes.seen_dim)[1:])


def top_flops(policy: Accelerable, n_seen: int) -> int:
    """Local conditions, level 0, and the blocks that join level 1 to it."""
    sizes: UnetSizes = policy.sizes
    length, first = policy.n_tokens, sizes.down_dims[0]
    total = below_flops(policy, n_seen)[0]
    total += block_flops(sizes, sizes.input_dim, first, length, n_seen)
    total += block_flops(sizes, first, first, length, n_seen)
    if sizes.obs_as == "local":
        total += block_flops(sizes, sizes.cond_dim, first, length, n_seen)
    return total + 2 * length * first * (sizes.kernel_size * first + sizes.input_dim)


def shallow_flops(policy: Accelerable) -> int:
    """The embedding of time, and what no cache saves of the rest."""
    sizes: UnetSizes = policy.sizes
    return 2 * 8 * sizes.diffusion_step_embed_dim**2 + top_flops(policy, sizes.seen_dim)


def fused_flops(policy: Accelerable, computed: np.ndarray) -> int:
    """FLOPs of one query of one row in the fused engine, arguments as in `query_flops`.

    Differences: what observations say to the blocks once a query, what time says never.
    """
    sizes: UnetSizes = policy.sizes

    def call(n_seen: int) -> list[int]:
        return [top_flops(policy, n_seen), *below_flops(policy, n_seen)[1:]]

    observed = sum(call(sizes.seen_dim - sizes.diffusion_step_embed_dim)) - sum(call(0))
    top, *sites = call(0)
    return observed + len(computed) * top + round(float(computed.sum(axis=0) @ np.array(sites)))


UNET = Family(
    called="a UNet",
    sites=levels,
    costs=Costs(level_costs, shallow_flops, fused_flops),
    engines=("fused", "reference"),
    programs=("native",),
    compiled="call",
    stack="levels",
    quantizable=True,
    caches=("none", "uniform", "deepcache", "taylor", "plan"),
)
