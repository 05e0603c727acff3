"""The action expert of a vision-language-action policy, as `accel.vla` shows it to the caches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .record import Costs, Family, Site

if TYPE_CHECKING:
    from torch import nn

    from ..protocol import Accelerable


class VlaSizes(Protocol):
    """Sizes of an action expert, family "vla".

    paths: of its layers, in the order in which they run; weights: (n_layer, 2) numbers in the
        linear layers of attention and feed-forward.
    """

    @property
    def family(self) -> str: ...

    @property
    def n_layer(self) -> int: ...

    @property
    def n_emb(self) -> int: ...

    @property
    def paths(self) -> tuple[str, ...]: ...

    @property
    def weights(self) -> np.ndarray: ...

    @property
    def branches(self) -> tuple[str, ...]: ...


def sites(sizes: VlaSizes) -> tuple[Site, ...]:
    """Attention and feed-forward of each layer."""
    return tuple(Site(f"{path}.{op}", op) for path in sizes.paths for op in sizes.branches)


def site_costs(policy: Accelerable) -> np.ndarray:
    """(n_sites,) of the linear layers of each branch, on the tokens of the actions.

    The product of queries and keys is not counted, nor the length of a prefix.
    """
    sizes: VlaSizes = policy.sizes
    return 2 * policy.n_tokens * sizes.weights.reshape(-1)


def first_norm(policy: Any) -> nn.Module:
    """That of the first layer's attention."""
    found: nn.Module = policy.vla.layers[0].module.input_layernorm
    return found


VLA = Family(
    called="a VLA's action expert",
    sites=sites,
    costs=Costs(site_costs, lambda policy: 0),
    stack="layers",
    calibratable=True,
    first=first_norm,
    tokens=True,
    caches=("none", "uniform", "bac", "hash_ab", "interval", "deepcache", "taylor", "plan"),
)
